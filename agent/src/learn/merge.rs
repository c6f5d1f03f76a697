//! Rules into a policy file that people wrote: its comments and layout stay. Lines are put in,
//! and whoever calls checks that the file then says what it should ([`insert`] finds its place
//! by indentation, not by a parser of YAML).

/// Why rules cannot be put into a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The file's layout is another one.
    #[error(
        "{0} is not written as a block of lines here, so no place for rules is found: put them in by hand"
    )]
    Shape(String),
}

/// The file with rules put behind those that the agent has. A file without the agent gets it, in
/// `monitor` mode where `mode` says so; an empty one is begun.
pub fn insert(
    text: &str,
    agent: &str,
    rules: &[String],
    notes: &[String],
) -> Result<String, MergeError> {
    if text.trim().is_empty() {
        let mut out = format!("version: 1\nagents:\n  {agent}:\n");
        out.push_str(&body(rules, notes, "    "));
        return Ok(out);
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let shape = |what: &str| MergeError::Shape(what.to_owned());
    let Some(agents) = find(&lines, 0..lines.len(), 0, "agents") else {
        lines.push("agents:".into());
        lines.push(format!("  {agent}:"));
        lines.extend(body(rules, notes, "    ").lines().map(str::to_owned));
        return Ok(joined(&lines));
    };
    if !is_bare(&lines[agents]) {
        return Err(shape("`agents`"));
    }
    let end = block_end(&lines, agents, 0);
    let indent = first_indent(&lines, agents + 1..end).unwrap_or(2);
    let Some(own) = find(&lines, agents + 1..end, indent, agent) else {
        let pad = " ".repeat(indent);
        let mut new = vec![format!("{pad}{agent}:")];
        let inner = " ".repeat(indent + 2);
        new.extend(body(rules, notes, &inner).lines().map(str::to_owned));
        lines.splice(end..end, new);
        return Ok(joined(&lines));
    };
    if !is_bare(&lines[own]) {
        return Err(shape(&format!("agent `{agent}`")));
    }
    let end = block_end(&lines, own, indent);
    let inner = first_indent(&lines, own + 1..end).unwrap_or(indent + 2);
    let (at, pad, head) = match find(&lines, own + 1..end, inner, "allow") {
        None => (end, inner, true),
        Some(allow) if is_bare(&lines[allow]) => {
            let end = list_end(&lines, allow, inner);
            let pad = first_indent(&lines, allow + 1..end).unwrap_or(inner + 2);
            (end, pad, false)
        }
        Some(_) => return Err(shape(&format!("`allow` of agent `{agent}`"))),
    };
    let mut new = Vec::new();
    if head && !rules.is_empty() {
        new.push(format!("{}allow:", " ".repeat(inner)));
    }
    let pad = if head { pad + 2 } else { pad };
    let all = rules.iter().chain(notes).flat_map(|rule| rule.lines());
    new.extend(all.map(|line| format!("{}{line}", " ".repeat(pad))));
    lines.splice(at..at, new);
    Ok(joined(&lines))
}

fn body(rules: &[String], notes: &[String], pad: &str) -> String {
    let mut out = String::new();
    if !rules.is_empty() {
        out.push_str(&format!("{pad}allow:\n"));
    }
    for line in rules.iter().chain(notes).flat_map(|rule| rule.lines()) {
        out.push_str(&format!("{pad}  {line}\n"));
    }
    out
}

fn joined(lines: &[String]) -> String {
    let mut out = lines.join("\n");
    out.push('\n');
    out
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Neither empty nor only a comment.
fn says_something(line: &str) -> bool {
    let rest = line.trim_start();
    !rest.is_empty() && !rest.starts_with('#')
}

/// The line with a key at this indentation.
fn find(
    lines: &[String],
    mut within: std::ops::Range<usize>,
    indent: usize,
    key: &str,
) -> Option<usize> {
    within.find(|at| {
        let line = &lines[*at];
        indent_of(line) == indent && says_something(line) && {
            let rest = line.trim_start();
            let found = rest.split_once(':').map(|(name, _)| name.trim_end());
            found.is_some_and(|name| name.trim_matches(['"', '\'']) == key)
        }
    })
}

/// Whether nothing but a comment stands behind the key.
fn is_bare(line: &str) -> bool {
    line.split_once(':').is_some_and(|(_, rest)| {
        let rest = rest.trim();
        rest.is_empty() || rest.starts_with('#')
    })
}

fn first_indent(lines: &[String], within: std::ops::Range<usize>) -> Option<usize> {
    within
        .map(|at| &lines[at])
        .find(|line| says_something(line))
        .map(|line| indent_of(line))
}

/// The line behind the last one of what stands below a key.
fn block_end(lines: &[String], key: usize, indent: usize) -> usize {
    last_of(lines, key, |line| indent_of(line) > indent)
}

/// The same of a list, whose items may stand as far left as the key.
fn list_end(lines: &[String], key: usize, indent: usize) -> usize {
    last_of(lines, key, |line| {
        indent_of(line) > indent
            || (indent_of(line) == indent && line.trim_start().starts_with("- "))
    })
}

fn last_of(lines: &[String], key: usize, belongs: impl Fn(&str) -> bool) -> usize {
    let mut end = key + 1;
    for (at, line) in lines.iter().enumerate().skip(key + 1) {
        if !says_something(line) {
            continue;
        }
        if !belongs(line) {
            break;
        }
        end = at + 1;
    }
    end
}
