//! Pieces of markup that the report and the local page both have.

use maud::{Markup, html};

/// The head of a table: columns of words, and then columns of numbers.
pub(crate) fn heads(words: &[&str], numbers: &[&str]) -> Markup {
    html! {
        thead { tr {
            @for name in words { th scope="col" { (name) } }
            @for name in numbers { th.num scope="col" { (name) } }
        } }
    }
}
