//! Who may take names below a name, by the public suffix list.

use super::pattern::HostPattern;
use psl::Psl;
use std::cell::Cell;

/// The part of a name that one owner registered: `example.co.uk` of `a.b.example.co.uk`,
/// `me.github.io` of `a.me.github.io`. Of a name that is itself a public suffix, or has
/// one label only: the name. `name` is in the form of [`super::HostName`].
pub fn registered_domain(name: &str) -> &str {
    psl::domain_str(name).unwrap_or(name)
}

/// Who may take names below the base of a wildcard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Below {
    /// Whoever owns the base, as far as the list knows.
    Owner,
    /// Anybody: the base is a public suffix (`com`, `github.io`).
    Anybody,
    /// Anybody, in parts of it: below the base there are public suffixes
    /// (`s3.amazonaws.com` below `amazonaws.com`).
    AnybodyInParts,
}

/// Who may take the names that a pattern means. A name whose top level the list does not
/// have (`corp`, `internal`) has an owner: nobody sells it.
pub(crate) fn below(pattern: &HostPattern) -> Below {
    let HostPattern::Below(base) = pattern else {
        return Below::Owner;
    };
    let base = base.as_str();
    if psl::suffix(base.as_bytes()).is_some_and(|s| s.is_known() && s.as_bytes() == base.as_bytes())
    {
        return Below::Anybody;
    }
    // The list is a tree of labels that is walked by taking them from this iterator. That
    // it wants one more than there are means that it has names below the base; it has no
    // other way to be asked for that.
    let beyond = Cell::new(false);
    let mut labels = base.rsplit('.').map(str::as_bytes);
    let labels = std::iter::from_fn(|| {
        let label = labels.next();
        beyond.set(beyond.get() || label.is_none());
        label
    });
    psl::List.find(labels);
    if beyond.get() {
        Below::AnybodyInParts
    } else {
        Below::Owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_take_a_name_below() {
        for (pattern, want) in [
            ("*.com", Below::Anybody),
            ("*.co.uk", Below::Anybody),
            ("*.github.io", Below::Anybody),
            ("*.s3.amazonaws.com", Below::Anybody),
            // By a wildcard of the list: `*.ck`.
            ("*.co.ck", Below::Anybody),
            // In punycode, as the list has it.
            ("*.xn--p1ai", Below::Anybody),
            ("*.amazonaws.com", Below::AnybodyInParts),
            ("*.core.windows.net", Below::AnybodyInParts),
            ("*.example.com", Below::Owner),
            ("*.a.github.io", Below::Owner),
            ("*.api.example.co.uk", Below::Owner),
            // By an exception of the list: `!www.ck`.
            ("*.www.ck", Below::Owner),
            ("*.corp", Below::Owner),
            ("*.internal", Below::Owner),
            ("*.x.local", Below::Owner),
            ("com", Below::Owner),
            ("github.io", Below::Owner),
        ] {
            let parsed: HostPattern = pattern.parse().expect(pattern);
            assert_eq!(below(&parsed), want, "{pattern}");
        }
    }

    #[test]
    fn what_one_owner_registered() {
        for (name, want) in [
            ("example.com", "example.com"),
            ("a.b.example.com", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("x.me.github.io", "me.github.io"),
            ("github.io", "github.io"),
            ("com", "com"),
            ("printer", "printer"),
            ("a.b.corp", "b.corp"),
            ("_x._tcp.example.com", "example.com"),
        ] {
            assert_eq!(registered_domain(name), want, "{name}");
        }
    }
}
