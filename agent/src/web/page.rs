//! The page without its content: that comes live, and is put in as text alone.

use maud::{DOCTYPE, html};

use crate::markup::heads;

/// The script, which the policy of the page allows by where it is from.
pub(super) const SCRIPT: &str = include_str!("app.js");
/// The style.
pub(super) const STYLE: &str = include_str!("app.css");
/// The icon.
pub(super) const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\">\
    <rect width=\"32\" height=\"32\" rx=\"7\" fill=\"#2f6fb5\"/>\
    <path d=\"M9 7h14v4H13v3h8v4h-8v3h10v4H9z\" fill=\"#fff\"/></svg>";
/// What the page may do: run and fetch what its own server has, and nothing else. Strings never
/// become markup or code, whatever the script does (`trusted-types`).
pub(super) const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page.
pub(super) fn page() -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Exeat" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/app.css";
                script src="/app.js" defer {}
            }
            body {
                header {
                    h1 { "Exeat" }
                    p #state role="status" { "Connecting …" }
                }
                main {
                    p #notice role="alert" hidden {}
                    noscript { p { "This page needs its script. `exeat status`, `exeat events` and `exeat ask` show and do the same." } }
                    section #asking aria-labelledby="asking-title" hidden {
                        h2 #asking-title { "Questions" }
                        p #asking-note .soft {}
                        div #questions aria-live="polite" {}
                    }
                    section aria-labelledby="agents-title" {
                        h2 #agents-title { "Agents" }
                        div .scroll { table {
                            (heads(&["Agent", "State"], &["Processes", "Let out", "Refused", "Sent"]))
                            tbody #agents {}
                        } }
                    }
                    section aria-labelledby="records-title" {
                        h2 #records-title { "What happens" }
                        p .filter role="group" aria-label="Show" {
                            button type="button" data-show="all" aria-pressed="true" { "All" }
                            button type="button" data-show="refused" aria-pressed="false" { "Refused" }
                            button type="button" data-show="incident" aria-pressed="false" { "Incidents" }
                        }
                        div .scroll { table {
                            (heads(&["Time", "Agent", "What", "Where to", "Program", "Why"], &[]))
                            tbody #records {}
                        } }
                    }
                    section aria-labelledby="grants-title" {
                        h2 #grants-title { "Answers that hold" }
                        p #grants-note .soft {}
                        div .scroll { table {
                            (heads(&["Agent", "Answer", "Destination", "Until", "By", ""], &[]))
                            tbody #grants {}
                        } }
                    }
                    section aria-labelledby="walls-title" {
                        h2 #walls-title { "Protections" }
                        p #health {}
                        ul #walls {}
                    }
                }
            }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `trusted-types` stops these in browsers that know it; no other browser shall meet them.
    #[test]
    fn the_script_makes_no_markup_and_the_page_has_no_code_in_it() {
        for never in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            "createContextualFragment",
            ".href",
            ".src",
            "setAttribute(\"on",
            "localStorage",
            "window.open",
        ] {
            assert!(!SCRIPT.contains(never), "{never}");
        }
        let page = page();
        for never in [
            " on",
            " style=",
            "<style",
            "javascript:",
            "http://",
            "https://",
        ] {
            let tags = page.split('<').filter_map(|tag| tag.split_once('>'));
            for (tag, _) in tags {
                assert!(!tag.contains(never), "{never} in {tag}");
            }
        }
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains("<script src=\"/app.js\" defer></script>"));
        assert!(!CSP.contains("unsafe") && !CSP.contains("http"));
    }
}
