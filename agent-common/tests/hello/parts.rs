//! A ClientHello taken apart and put together again, lies included.

/// The fields of a ClientHello. What the lengths say follows from them.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) record_version: [u8; 2],
    pub(crate) message: u8,
    pub(crate) version: [u8; 2],
    pub(crate) random: [u8; 32],
    pub(crate) session: Vec<u8>,
    pub(crate) ciphers: Vec<u8>,
    pub(crate) compression: Vec<u8>,
    /// Type and body; `None` is a hello that ends before its extensions.
    pub(crate) extensions: Option<Vec<(u16, Vec<u8>)>>,
}

/// A hello as bytes, with the place and the width of each of its lengths.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<(usize, usize)>,
}

impl Encoded {
    /// Begins a field whose length is `width` bytes.
    fn open(&mut self, width: usize) -> usize {
        self.lengths.push((self.bytes.len(), width));
        self.bytes.extend(std::iter::repeat_n(0, width));
        self.lengths.len() - 1
    }

    fn close(&mut self, opened: usize) {
        let (at, width) = self.lengths[opened];
        let length = self.bytes.len() - at - width;
        self.bytes[at..at + width].copy_from_slice(&length.to_be_bytes()[8 - width..]);
    }

    fn field(&mut self, width: usize, bytes: &[u8]) {
        let opened = self.open(width);
        self.bytes.extend_from_slice(bytes);
        self.close(opened);
    }

    /// Adds to a length what it should not say.
    pub(crate) fn lie(&mut self, which: usize, by: i64) {
        let (at, width) = self.lengths[which];
        let mut wide = [0; 8];
        wide[8 - width..].copy_from_slice(&self.bytes[at..at + width]);
        let told = u64::from_be_bytes(wide).wrapping_add_signed(by);
        self.bytes[at..at + width].copy_from_slice(&told.to_be_bytes()[8 - width..]);
    }
}

/// A server_name extension with these names.
pub(crate) fn names(list: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let mut body = Encoded {
        bytes: Vec::new(),
        lengths: Vec::new(),
    };
    let outer = body.open(2);
    for (kind, name) in list {
        body.bytes.push(*kind);
        body.field(2, name);
    }
    body.close(outer);
    (0, body.bytes)
}

/// The extension of one host name.
pub(crate) fn host(name: impl AsRef<[u8]>) -> (u16, Vec<u8>) {
    names(&[(0, name.as_ref())])
}

/// What rustls asks of a client besides a name: groups, signature schemes, versions, a share.
pub(crate) fn plain() -> Vec<(u16, Vec<u8>)> {
    let mut share = vec![0, 36, 0, 29, 0, 32];
    share.extend([7; 32]);
    vec![
        (10, vec![0, 2, 0, 29]),
        (13, vec![0, 2, 4, 3]),
        (43, vec![2, 3, 4]),
        (51, share),
    ]
}

impl Parts {
    /// A small hello with these extensions.
    pub(crate) fn new(extensions: Vec<(u16, Vec<u8>)>) -> Self {
        Self {
            record_version: [3, 1],
            message: 1,
            version: [3, 3],
            random: [0x5a; 32],
            session: vec![1; 32],
            ciphers: vec![0x13, 0x01, 0x13, 0x02],
            compression: vec![0],
            extensions: Some(extensions),
        }
    }

    /// One that asks for this name, as any client would.
    pub(crate) fn named(name: impl AsRef<[u8]>) -> Self {
        let mut extensions = plain();
        extensions.insert(1, host(name));
        Self::new(extensions)
    }

    pub(crate) fn extensions(&mut self) -> &mut Vec<(u16, Vec<u8>)> {
        self.extensions.get_or_insert_default()
    }

    /// Takes a good hello apart.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        let mut take = |count: usize| {
            let (head, tail) = rest.split_at(count);
            rest = tail;
            head.to_vec()
        };
        let number = |bytes: Vec<u8>| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        assert_eq!(take(1), [22]);
        let record_version = take(2).try_into().expect("two bytes");
        let length = number(take(2));
        assert_eq!(length + 5, bytes.len(), "one record");
        let message = take(1)[0];
        assert_eq!(number(take(3)), length - 4, "one message");
        let version = take(2).try_into().expect("two bytes");
        let random = take(32).try_into().expect("32 bytes");
        let mut field = |width: usize| {
            let length = number(take(width));
            take(length)
        };
        let (session, ciphers, compression) = (field(1), field(2), field(1));
        let block = field(2);
        let mut block = block.as_slice();
        let mut extensions = Vec::new();
        while let [a, b, c, d, tail @ ..] = block {
            let (body, tail) = tail.split_at(usize::from(u16::from_be_bytes([*c, *d])));
            extensions.push((u16::from_be_bytes([*a, *b]), body.to_vec()));
            block = tail;
        }
        assert!(block.is_empty() && rest.is_empty(), "trailing bytes");
        Self {
            record_version,
            message,
            version,
            random,
            session,
            ciphers,
            compression,
            extensions: Some(extensions),
        }
    }

    pub(crate) fn encode(&self) -> Encoded {
        let mut all = Encoded {
            bytes: vec![22],
            lengths: Vec::new(),
        };
        all.bytes.extend(self.record_version);
        let record = all.open(2);
        all.bytes.push(self.message);
        let message = all.open(3);
        all.bytes.extend(self.version);
        all.bytes.extend(self.random);
        all.field(1, &self.session);
        all.field(2, &self.ciphers);
        all.field(1, &self.compression);
        if let Some(extensions) = &self.extensions {
            let block = all.open(2);
            for (kind, body) in extensions {
                all.bytes.extend(kind.to_be_bytes());
                let at = all.bytes.len() + 2;
                all.field(2, body);
                if *kind == 0 && body.len() >= 5 {
                    all.lengths.extend([(at, 2), (at + 3, 2)]);
                }
            }
            all.close(block);
        }
        all.close(message);
        all.close(record);
        all
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.encode().bytes
    }
}

/// The message of a hello in records of these lengths, the last as long as it must be.
pub(crate) fn in_records(hello: &[u8], lengths: &[usize]) -> Vec<u8> {
    let (head, mut message) = hello.split_at(5);
    let mut bytes = Vec::new();
    let mut record = |body: &[u8]| {
        bytes.extend_from_slice(&head[..3]);
        bytes.extend(u16::try_from(body.len()).expect("a record").to_be_bytes());
        bytes.extend_from_slice(body);
    };
    for length in lengths {
        let (body, rest) = message.split_at((*length).min(message.len()));
        record(body);
        message = rest;
    }
    if !message.is_empty() {
        record(message);
    }
    bytes
}
