//! `docs/kernels.md`, made of the record.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::arch::Arch;
use super::record::{Kernel, Record};
use super::results::Attack;

const HEAD: &str = "# Kernels\n\n\
    <!-- Written by `cargo xtask vm-test --save` from docs/kernels.json. Do not edit. -->\n\n\
    What loads, what holds and what is missing, measured in virtual machines with Debian's \
    kernels. `cargo xtask vm-test` runs it again and fails where a kernel differs from this \
    page.\n";

/// The whole page.
pub(super) fn render(record: &Record) -> String {
    let kernels: Vec<&Kernel> = record.kernels.iter().collect();
    let mut page = HEAD.to_owned();
    if kernels.is_empty() {
        page.push_str("\nNo run is recorded yet.\n");
        return page;
    }
    runs(&mut page, &kernels);
    programs(&mut page, &kernels);
    findings(&mut page, &kernels);
    attacks(&mut page, &kernels);
    page
}

/// `5.10`, `7.3 aarch64`, `6.1 lsm bpf`.
fn title(kernel: &Kernel) -> String {
    let mut title = kernel.name.clone();
    if kernel.arch != Arch::X86_64 {
        let _ = write!(title, " {}", kernel.arch);
    }
    if kernel.lsm != "default" {
        let _ = write!(title, " lsm {}", kernel.lsm);
    }
    title
}

fn runs(page: &mut String, kernels: &[&Kernel]) {
    page.push_str("\n## Runs\n");
    let rows = kernels.iter().map(|kernel| {
        let loaded = kernel.programs.iter().filter(|one| one.loads).count();
        let sum = |of: fn(&super::record::Tests) -> u64| kernel.suites.values().map(of).sum();
        let (passed, failed): (u64, u64) = (sum(|one| one.passed), sum(|one| one.failed));
        vec![
            title(kernel),
            kernel.package.clone(),
            kernel.active_lsm.replace(',', ", "),
            format!("{loaded} of {}", kernel.programs.len()),
            format!("{passed} passed, {failed} failed"),
            format!("{} s", kernel.wall_seconds),
            kernel.date.clone(),
        ]
    });
    let heads = [
        "kernel",
        "package",
        "LSMs",
        "programs loaded",
        "tests",
        "time",
        "date",
    ];
    table(page, &heads.map(str::to_owned), rows);
    page.push('\n');
    for kernel in kernels {
        let names: Vec<_> = kernel.suites.keys().map(String::as_str).collect();
        let _ = writeln!(
            page,
            "- {} ran the suites {}.",
            title(kernel),
            names.join(", ")
        );
    }
}

/// Each program on each kernel: the instructions verified, or why not.
fn programs(page: &mut String, kernels: &[&Kernel]) {
    page.push_str(
        "\n## Programs\n\nInstructions that the verifier went through (its limit is 1 000 000); \
         `loads` where it does not tell.\n",
    );
    let names = in_order(kernels, |kernel| {
        let programs = kernel.programs.iter();
        programs
            .map(|one| (one.program.clone(), one.place.clone()))
            .collect()
    });
    let mut notes = Vec::new();
    let rows: Vec<_> = names
        .iter()
        .map(|(program, place)| {
            let mut row = vec![format!("`{program}`"), place.clone()];
            for kernel in kernels {
                let mut programs = kernel.programs.iter();
                let found = programs.find(|one| one.program == *program && one.place == *place);
                row.push(match found {
                    None => "–".to_owned(),
                    Some(one) if !one.loads => {
                        let why = one.error.as_deref().unwrap_or("no reason is told");
                        notes.push(format!("{}: `{program}` is refused: {why}", title(kernel)));
                        "**refused**".to_owned()
                    }
                    Some(one) => {
                        for word in &one.leaves_out {
                            notes.push(format!("{}: `{program}` leaves out {word}", title(kernel)));
                        }
                        let less = if one.leaves_out.is_empty() { "" } else { " *" };
                        let count = one.verified.map(|count| count.to_string());
                        format!("{}{less}", count.unwrap_or_else(|| "loads".to_owned()))
                    }
                });
            }
            row
        })
        .collect();
    table(page, &heads(&["program", "place"], kernels), rows);
    notes.dedup();
    if !notes.is_empty() {
        page.push('\n');
    }
    for note in notes {
        let _ = writeln!(page, "- {}", cell(&note));
    }
}

fn findings(page: &mut String, kernels: &[&Kernel]) {
    page.push_str("\n## What the kernel has\n\nBy `exeat doctor`.\n");
    let features = in_order(kernels, |kernel| kernel.findings.keys().cloned().collect());
    let rows = features.iter().map(|feature| {
        let mut row = vec![feature.clone()];
        for kernel in kernels {
            let grade = kernel.findings.get(feature);
            row.push(grade.cloned().unwrap_or_else(|| "–".to_owned()));
        }
        row
    });
    table(page, &heads(&["feature"], kernels), rows);
}

fn attacks(page: &mut String, kernels: &[&Kernel]) {
    page.push_str(
        "\n## Attacks\n\nWhat became of each technique of the hostile program where the policy \
         allows nothing; where one host is allowed it is the same unless a second word tells. \
         `unsupported`: the kernel has no such way out. `bind-tcp` and `bind-udp` only bind to a \
         port that the kernel chooses: `out` means that they may, and `accept-*` and `udp-reply-*` \
         show that nothing is answered from there.\n",
    );
    let names = in_order(kernels, |kernel| kernel.attacks.keys().cloned().collect());
    let rows = names.iter().map(|technique| {
        let mut row = vec![format!("`{technique}`")];
        for kernel in kernels {
            row.push(match kernel.attacks.get(technique) {
                None => "–".to_owned(),
                Some(attack) => effect(attack),
            });
        }
        row
    });
    table(page, &heads(&["technique"], kernels), rows);
}

fn effect(attack: &Attack) -> String {
    match (&attack.nothing, &attack.one_host, &attack.later) {
        (_, _, Some(later)) => format!("later: {later}"),
        (Some(nothing), Some(one_host), _) if nothing != one_host => {
            format!("{nothing} / {one_host}")
        }
        (Some(nothing), ..) => nothing.clone(),
        (None, ..) => "–".to_owned(),
    }
}

fn heads(first: &[&str], kernels: &[&Kernel]) -> Vec<String> {
    let first = first.iter().map(|&head| head.to_owned());
    first.chain(kernels.iter().map(|one| title(one))).collect()
}

/// Every name once, in the order of the first kernel that has it.
fn in_order<T: Clone + Ord>(kernels: &[&Kernel], names: impl Fn(&Kernel) -> Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let all = kernels.iter().flat_map(|kernel| names(kernel));
    all.filter(|name| seen.insert(name.clone())).collect()
}

fn table(page: &mut String, heads: &[String], rows: impl IntoIterator<Item = Vec<String>>) {
    page.push('\n');
    let line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|text| cell(text)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    page.push_str(&line(heads));
    page.push_str(&format!("|{}\n", "---|".repeat(heads.len())));
    for row in rows {
        page.push_str(&line(&row));
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::kernel;
    use super::*;

    #[test]
    fn tells_what_is_refused_and_what_is_left_out() {
        let mut old = kernel("5.10");
        old.programs[0].loads = false;
        old.programs[0].error = Some("R1 min value is | negative".to_owned());
        let mut new = kernel("6.1");
        new.programs[0].leaves_out = vec!["fragments".to_owned()];
        let page = render(&Record {
            kernels: vec![old, new],
        });
        assert!(
            page.contains("| `exeat_egress` | slice | **refused** | 1000 * |"),
            "{page}"
        );
        assert!(page.contains("- 5.10: `exeat_egress` is refused: R1 min value is \\| negative"));
        assert!(page.contains("- 6.1: `exeat_egress` leaves out fragments"));
        assert!(page.contains("| `tcp_connect` | refused | refused |"));
        assert!(page.contains("| ring buffer | ok | ok |"));
    }

    #[test]
    fn an_empty_record_says_so() {
        assert!(render(&Record::default()).contains("No run is recorded yet"));
    }
}
