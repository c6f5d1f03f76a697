//! What test programs report of themselves.

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Count {
    /// Reads `test result: ok. 5 passed; 0 failed; 1 ignored; …`, with or
    /// without colours.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_test_programs_report() {
        let mut count = Count::default();
        count.add("running 6 tests");
        count.add("test a ... ok");
        count.add("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out");
        count.add("test result: \u{1b}[31mFAILED\u{1b}[m. 2 passed; 3 failed; 0 ignored");
        let expected = Count {
            passed: 7,
            failed: 3,
            ignored: 1,
        };
        assert_eq!(count, expected);
    }
}
