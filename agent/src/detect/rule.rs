//! One rule, compiled.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use cel::{Program, Value};

use super::file::{Action, RuleText, Severity};
use super::{facts, window};

/// Variables of lists.
pub(super) const LISTS: &str = "lists";

/// A rule that can be evaluated.
pub struct Rule {
    /// Its name: letters, digits and `-`.
    pub id: String,
    /// What it finds, in words.
    pub title: String,
    /// How grave that is.
    pub severity: Severity,
    /// What is done.
    pub actions: BTreeSet<Action>,
    /// How far back records count, seconds.
    pub within: u64,
    /// How long the same finding is not told again, seconds.
    pub quiet: u64,
    /// Whether it holds.
    pub enabled: bool,
    pub(super) when: Program,
    pub(super) by: Vec<Program>,
    pub(super) value: Option<Program>,
    pub(super) having: Option<Program>,
    /// None where no expression could name one.
    pub(super) lists: Option<Value>,
    /// Whether it asks what was seen before: [`window::NEW`] or [`window::KNOWN_FOR`].
    pub(super) remembers: bool,
    /// Whether it asks for the times between records.
    pub(super) of_intervals: bool,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Rule {
    pub(super) fn compile(text: RuleText, enabled: bool) -> Result<Self, String> {
        let sound = !text.id.is_empty()
            && text.id.len() <= 64
            && (text.id.bytes()).all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !sound {
            return Err("write an id of letters, digits and `-`, at most 64".into());
        }
        if text.by.is_empty() {
            return Err("`by` is empty: leave it out, or write what to count by".into());
        }
        let of_record: BTreeSet<&str> = facts::NAMES.into_iter().chain([LISTS]).collect();
        let mut of_window = of_record.clone();
        of_window.extend(window::NAMES);
        let record = |key: &str, text: &str| program(key, text, &of_record);
        let when = record("when", &text.when)?;
        let by = (text.by.iter())
            .map(|by| record("by", by))
            .collect::<Result<_, _>>()?;
        let value = (text.value.as_deref())
            .map(|value| record("value", value))
            .transpose()?;
        let having = (text.having.as_deref())
            .map(|having| program("having", having, &of_window))
            .transpose()?;
        let asks = |name| {
            having
                .as_ref()
                .is_some_and(|having| having.references().has_variable(name))
        };
        for name in window::OF_VALUES {
            if asks(name) && value.is_none() {
                return Err(format!(
                    "`having` asks for `{name}`: write `value`, what it is of"
                ));
            }
        }
        let remembers = asks(window::NEW) || asks(window::KNOWN_FOR);
        let of_intervals = window::OF_INTERVALS.into_iter().any(asks);
        let lists: HashMap<String, Vec<String>> = text.lists.clone().into_iter().collect();
        let (within, quiet, actions) = (text.within()?, text.quiet()?, text.actions());
        Ok(Self {
            id: text.id,
            title: text.title,
            severity: text.severity,
            actions,
            within,
            quiet,
            enabled,
            when,
            by,
            value,
            having,
            lists: (!lists.is_empty()).then(|| Value::from(lists)),
            remembers,
            of_intervals,
        })
    }
}

/// Compiles an expression, and refuses one that names what nobody gives it: it would fail for
/// every record, silently.
fn program(key: &str, text: &str, known: &BTreeSet<&str>) -> Result<Program, String> {
    let program = Program::compile(text).map_err(|e| format!("`{key}` does not compile: {e}"))?;
    let references = program.references();
    for name in references.variables() {
        // Macros' own variables begin so, as `@result`.
        if known.contains(name) || name.starts_with('@') || is_bound(text, name) {
            continue;
        }
        let near = (known.iter())
            .map(|known| (strsim::jaro_winkler(name, known), *known))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(near, _)| *near > 0.8)
            .map(|(_, known)| format!("; did you mean `{known}`?"))
            .unwrap_or_default();
        return Err(format!(
            "`{key}` names `{name}`, which is not known{near} There are: {}",
            known.iter().copied().collect::<Vec<_>>().join(", ")
        ));
    }
    let functions = facts::FUNCTIONS;
    for name in references.functions() {
        let of_library = name.starts_with(['_', '@', '!', '-'])
            || STANDARD.contains(&name)
            || functions.contains(&name);
        if !of_library {
            return Err(format!(
                "`{key}` calls `{name}`, which is not known; there are {} and those of CEL",
                functions.join(", ")
            ));
        }
    }
    Ok(program)
}

/// Functions and macros of CEL that rules may call.
const STANDARD: [&str; 24] = [
    "all",
    "contains",
    "double",
    "duration",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "getHours",
    "getMinutes",
    "has",
    "int",
    "map",
    "matches",
    "max",
    "min",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "uint",
    "bool",
    "type",
    "optional",
];

/// Whether a macro of the text binds the name, as `names.exists(n, …)` does.
fn is_bound(text: &str, name: &str) -> bool {
    ["all", "exists", "exists_one", "filter", "map"]
        .iter()
        .any(|word| {
            text.match_indices(&format!("{word}(")).any(|(at, found)| {
                let rest = text[at + found.len()..].trim_start();
                rest.strip_prefix(name)
                    .is_some_and(|rest| rest.trim_start().starts_with(','))
            })
        })
}
