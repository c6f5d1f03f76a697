//! What is said of it.

use super::client::LONG;
use super::{Around, HOST, Kernel, Measured, Seen, UNDER_WAY, Via};
use crate::report::{Section, Target, number, ratio};
use crate::stats::Series;

/// The design's bound for the name check of a connection, nanoseconds.
pub(super) const CONNECTION: f64 = 700.0;
/// That for a packet whose verdict is known, over an empty program.
const PACKET: f64 = 30.0;

/// One of the values of each way.
type Value = fn(&Seen) -> &Series;

impl Measured {
    /// Every table.
    pub(super) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![
            self.times(
                "TLS: one connection",
                "Connect, a full handshake of TLS 1.3 (rustls on both sides, X25519, a P-256 \
                 certificate), a request of 64 bytes, an answer of 256 and the end, one after \
                 the other, to a host on the other end of a veth pair; µs, the median of each \
                 round, and of those the median. Nothing is attached to anything where the way \
                 is direct or through the proxy, which is on the machine and asked with CONNECT; \
                 Exeat comes and goes from round to round. The gateway is on the machine too: \
                 both are one more connection, and each writes down what passed; the throttle of \
                 events is off. What is left \
                 over `tls: none` is the name check as the program feels it: below some µs it \
                 is the noise of the machine, so the target is judged by the kernel's count.",
                |seen| &seen.connect,
            ),
            self.rates(
                "TLS: handshakes a second",
                &format!(
                    "The same connections, {UNDER_WAY} always under way from one process. \
                     Client, host and what is between them share the processors. More is \
                     better."
                ),
                "handshakes /s",
                |seen| &seen.rate,
            ),
            self.counted(),
            self.times(
                "TLS: a packet there and back",
                "64 bytes in a TLS record there and back on one connection whose handshake is \
                 over, one after the other; µs, the median of each round, and of those the \
                 median. Most of it is two processes that wake each other.",
                |seen| &seen.echo,
            ),
            self.rates(
                "TLS: throughput",
                "One connection that takes as much as it can, encryption on both sides \
                 included; from the first byte to the host's word that it has the last one. \
                 More is better.",
                "MiB /s",
                |seen| &seen.upload,
            ),
        ];
        if let Err(why) = &self.squid {
            sections[0].note += &format!(" Without squid: {why}.");
        }
        sections
    }

    fn name(&self, via: Via) -> String {
        match (via, via.agent()) {
            (_, Some((_, rule))) => format!("exeat, `{rule}`"),
            (Via::Squid, _) => self.proxy(),
            _ => "direct".to_owned(),
        }
    }

    fn proxy(&self) -> String {
        self.squid.clone().unwrap_or_else(|_| "squid".to_owned())
    }

    /// A way's values; none where it was not measured.
    fn series(&self, via: Via, value: Value) -> Series {
        self.seen
            .get(&via)
            .map_or_else(Series::default, |seen| value(seen).clone())
    }

    fn over(&self, via: Via, base: Via, value: Value) -> String {
        shown(&self.series(via, value).over(&self.series(base, value)))
    }

    /// A table of what is better the less it is.
    fn times(&self, title: &'static str, note: &str, value: Value) -> Section {
        let less = |via, base| {
            let less = self.series(via, value).less(&self.series(base, value));
            number(less.median())
        };
        let row = |&via: &Via| {
            let one = self.series(via, value);
            vec![
                self.name(via),
                number(one.median()),
                number(one.min()),
                less(via, Via::Direct),
                match via.agent() {
                    Some(_) => less(via, Via::Unchecked),
                    None => "-".to_owned(),
                },
                self.over(via, Via::Direct, value),
                self.over(via, Via::Squid, value),
            ]
        };
        let proxy = format!("× {}", self.proxy());
        section(
            title,
            note,
            &[
                "way",
                "µs",
                "min",
                "over direct",
                "over `tls: none`",
                "× direct",
                &proxy,
            ],
            self.seen.keys().map(row).collect(),
        )
    }

    /// A table of what is better the more it is.
    fn rates(&self, title: &'static str, note: &str, unit: &str, value: Value) -> Section {
        let row = |&via: &Via| {
            vec![
                self.name(via),
                number(self.series(via, value).median()),
                self.over(via, Via::Direct, value),
                self.over(via, Via::Unchecked, value),
                self.over(via, Via::Squid, value),
            ]
        };
        let proxy = format!("× {}", self.proxy());
        section(
            title,
            note,
            &["way", unit, "× direct", "× `tls: none`", &proxy],
            self.seen.keys().map(row).collect(),
        )
    }

    fn counted(&self) -> Section {
        let nothing = Kernel::default();
        let of = |around| self.kernel.get(&around).unwrap_or(&nothing);
        let (empty, unchecked) = (of(Around::Empty), of(Around::Unchecked));
        let row = |(around, one): (&Around, &Kernel)| {
            let name = match around {
                Around::Empty => "empty programs",
                Around::Unchecked => "exeat, `tls: none`",
                Around::Checked => "exeat, `tls: sni`",
                Around::CheckedLong => "exeat, `tls: sni`, a long hello",
                Around::Told => "exeat, `tls: sni`, an event each",
            };
            vec![
                name.to_owned(),
                number(one.connection.median()),
                number(one.egress.median()),
                number(one.runs.median()),
                number(one.connection.less(&unchecked.connection).median()),
                number(one.connection.min() - unchecked.connection.min()),
                number(one.out.median()),
                number(one.out.less(&empty.out).median()),
                number(one.out.less(&unchecked.out).median()),
                number(one.back.median()),
            ]
        };
        let checked = of(Around::Checked);
        let more = |one: &Kernel| one.connection.less(&unchecked.connection).median();
        let packet = checked.out.less(&empty.out).median();
        let targets = vec![
            Target::at_most(
                "name check (SNI) of one connection, in the kernel, over `tls: none`",
                CONNECTION,
                more(checked),
                "ns",
            ),
            Target::at_most(
                "name check (SNI) of one connection with a long hello, the same",
                CONNECTION,
                more(of(Around::CheckedLong)),
                "ns",
            ),
            Target::at_most(
                "name check (SNI) of one connection and its event, the same",
                CONNECTION,
                more(of(Around::Told)),
                "ns",
            ),
            Target::at_most(
                "packet of a connection whose name was checked, over an empty program",
                PACKET,
                packet,
                "ns",
            ),
        ];
        let mut section = section(
            "TLS: in the kernel",
            &format!(
                "The kernel's own count (`BPF_ENABLE_STATS`) of the same connections to {HOST}, \
                 ns, the median of the rounds. A connection: all programs together, from the \
                 socket to the last packet, and of that the one for packets that leave; and how \
                 often any ran. What is left over `tls: none` (the median, and the difference \
                 of the minima) is everything that the name check adds: the hello, what is kept \
                 of it, and where it is said the event of each connection, which wakes the \
                 daemon each time (by default the throttle keeps back those over 200 a second, \
                 and a flood wakes it seldom; the other rows are of a daemon that tells of next \
                 to none). It comes once a connection, between much other work; the reader \
                 alone, in the last table, has the processor's caches for itself. A long hello offers {} \
                 protocols with names of {} bytes each \
                 and is as long as one with post-quantum keys. A packet: one that leaves on a \
                 connection whose handshake is over; and one that comes in. Every run holds the \
                 price of counting it, which an empty program shows. {}",
                LONG.0,
                LONG.1,
                said(&targets)
            ),
            &[
                "programs",
                "a connection",
                "of it egress",
                "runs",
                "over `tls: none`",
                "min",
                "a packet",
                "over empty",
                "over `tls: none`",
                "one that comes in",
            ],
            self.kernel.iter().map(row).collect(),
        );
        section.targets = targets;
        section
    }
}

/// In words, for who reads no tables.
fn said(targets: &[Target]) -> String {
    let say = |target: &Target| {
        let by = target.seen / target.bound;
        match (target.met, by.is_finite()) {
            (true, _) => format!("The target for the {} is met.", target.what),
            (false, true) => format!(
                "The target for the {} is missed: {by:.1} times the bound.",
                target.what
            ),
            (false, false) => format!("The {} could not be measured.", target.what),
        }
    };
    targets.iter().map(say).collect::<Vec<_>>().join(" ")
}

fn shown(over: &Series) -> String {
    match over.median().is_nan() {
        true => "-".to_owned(),
        false => ratio(over),
    }
}

fn section(title: &'static str, note: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Section {
    Section {
        name: "tls",
        title,
        note: note.to_owned(),
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
        rows,
        targets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `factor` times as slow as direct.
    fn seen(factor: f64) -> Seen {
        let times = |values: [f64; 3]| values.iter().map(|value| value * factor).collect();
        let rates = |values: [f64; 3]| values.iter().map(|value| value / factor).collect();
        Seen {
            connect: times([400.0, 500.0, 600.0]),
            rate: rates([2000.0, 1500.0, 1800.0]),
            echo: times([20.0, 30.0, 25.0]),
            upload: rates([800.0, 900.0, 700.0]),
        }
    }

    fn kernel(connection: f64, out: f64) -> Kernel {
        Kernel {
            connection: [connection; 3].into_iter().collect(),
            egress: [connection / 2.0; 3].into_iter().collect(),
            runs: [12.0; 3].into_iter().collect(),
            out: [out; 3].into_iter().collect(),
            back: Series::default(),
        }
    }

    fn measured(squid: bool) -> Measured {
        let mut measured = Measured::new(match squid {
            true => Ok("squid 9.9".to_owned()),
            false => Err("it is not here".to_owned()),
        });
        let factors = [1.0, 2.0, 1.25, 1.5, 3.0];
        for (via, factor) in Via::OUTSIDE.into_iter().chain(Via::EXEAT).zip(factors) {
            if squid || via != Via::Squid {
                measured.seen.insert(via, seen(factor));
            }
        }
        measured.kernel.insert(Around::Empty, kernel(400.0, 40.0));
        measured
            .kernel
            .insert(Around::Unchecked, kernel(2000.0, 90.0));
        measured
            .kernel
            .insert(Around::Checked, kernel(2600.0, 100.0));
        let long = Kernel {
            out: Series::default(),
            ..kernel(4100.0, 0.0)
        };
        measured.kernel.insert(Around::CheckedLong, long);
        measured.kernel.insert(Around::Told, kernel(3000.0, 100.0));
        measured
    }

    fn row<'a>(section: &'a Section, name: &str) -> &'a [String] {
        let row = section.rows.iter().find(|row| row[0] == name);
        row.unwrap_or_else(|| panic!("{name}: {:?}", section.rows))
    }

    #[test]
    fn each_way_stands_beside_the_others() {
        let sections = measured(true).sections();
        let checked = row(&sections[0], "exeat, `tls: sni`");
        assert_eq!(
            checked[1..],
            [
                "750",
                "600",
                "250",
                "125",
                "1.500 (1.50-1.50)",
                "0.750 (0.75-0.75)"
            ]
        );
        assert_eq!(row(&sections[0], "squid 9.9")[4], "-");
        let gateway = row(&sections[4], "exeat, `via: gateway`");
        assert_eq!(gateway[1..3], ["267", "0.333 (0.33-0.33)"]);
        for section in &sections {
            assert!(
                section
                    .rows
                    .iter()
                    .all(|row| row.len() == section.columns.len())
            );
        }
    }

    #[test]
    fn targets_are_judged_by_what_the_kernel_counts_and_said_in_words() {
        let text = measured(true).sections()[2].text();
        let met = "over `tls: none`: at most 700 ns, seen 600: **met**";
        assert!(text.contains(met), "{text}");
        let missed = "over an empty program: at most 30.0 ns, seen 60.0: **missed**";
        assert!(text.contains(missed), "{text}");
        assert!(
            text.contains("over an empty program is missed: 2.0 times the bound."),
            "{text}"
        );
        assert!(text.contains("over `tls: none` is met."), "{text}");
        let missed = "its event, the same: at most 700 ns, seen 1000: **missed**";
        assert!(text.contains(missed), "{text}");
        let missed = "long hello, the same: at most 700 ns, seen 2100: **missed**";
        assert!(text.contains(missed), "{text}");
        assert!(text.contains("is missed: 3.0 times the bound."), "{text}");
    }

    #[test]
    fn what_is_absent_is_said() {
        let sections = measured(false).sections();
        assert!(sections[0].note.ends_with("Without squid: it is not here."));
        let direct = row(&sections[1], "direct");
        assert_eq!(direct.last().map(String::as_str), Some("-"));
        let mut nothing = measured(true);
        nothing.kernel.clear();
        let text = nothing.sections()[2].text();
        assert!(text.contains("could not be measured"), "{text}");
        assert!(!text.contains("is met"), "{text}");
    }
}
