//! All rules over one record after the other. Pure: time is the records' own.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Program, Value};

use super::facts::{self, context};
use super::file::{Action, Severity};
use super::rule::{LISTS, Rule};
use super::seen::Seen;
use super::window::Window;
use crate::incident::{Incident, IncidentKind};
use crate::sink::Record;

/// Groups of one rule at once; the one that was quiet longest goes first.
const MAX_GROUPS: usize = 1024;

/// Something that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// The rule.
    pub rule: String,
    /// What it finds, in words.
    pub title: String,
    /// How grave that is.
    pub severity: Severity,
    /// Name of the agent.
    pub agent: String,
    /// What the records were counted by, in the rule's order.
    pub group: Vec<String>,
    /// Records that counted.
    pub count: u64,
    /// The user of the record that completed it, if it has one.
    pub uid: Option<u32>,
    /// Number of that record.
    pub seq: u64,
    /// When, by that record.
    pub time: jiff::Timestamp,
    /// What is to be done.
    pub actions: Vec<Action>,
}

impl Detection {
    /// What is told of it.
    pub fn incident(&self) -> Incident {
        let about: Vec<&str> = (self.group.iter())
            .map(String::as_str)
            .filter(|part| *part != self.agent && !part.is_empty())
            .collect();
        let about = match about.is_empty() {
            true => String::new(),
            false => format!(": {}", about.join(", ")),
        };
        let actions: Vec<&str> = self.actions.iter().map(|action| action.as_str()).collect();
        let message = format!("{}{about} ({} records)", self.title, self.count);
        Incident::new(IncidentKind::Detected, &self.agent, message)
            .of_user(self.uid)
            .with("rule", &self.rule)
            .with("severity", self.severity.as_str())
            .with("group", self.group.join(", "))
            .with("count", self.count.to_string())
            .with("record", self.seq.to_string())
            .with("actions", actions.join(","))
    }
}

/// Whether an incident is a finding that its rule wants people told of.
pub fn is_for_people(incident: &Incident) -> bool {
    let actions = incident.facts.get("actions").map_or("", String::as_str);
    incident.kind == IncidentKind::Detected
        && actions.split(',').any(|one| one == Action::Notify.as_str())
}

/// Absolute counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// Records looked at.
    pub records: u64,
    /// Findings.
    pub detections: u64,
    /// Expressions that failed: the record counted as one that does not match.
    pub errors: u64,
}

/// One group of one rule.
#[derive(Default)]
struct Group {
    window: Window,
    /// Until when it is not told again, seconds since the epoch.
    quiet_until: f64,
}

/// The rules and what they remember.
pub struct Engine {
    env: Arc<Env>,
    no_lists: Value,
    rules: Vec<Rule>,
    groups: Vec<HashMap<Vec<String>, Group>>,
    /// What was seen before.
    pub seen: Seen,
    counts: EngineCounts,
    /// The first error of each rule, for people.
    troubles: BTreeMap<String, String>,
}

impl Engine {
    /// Rules that begin with what was seen before.
    pub fn new(rules: Vec<Rule>, seen: Seen) -> Self {
        let groups = rules.iter().map(|_| HashMap::new()).collect();
        Self {
            env: Arc::new(Env::stdlib()),
            no_lists: Value::from(HashMap::<String, Vec<String>>::new()),
            rules,
            groups,
            seen,
            counts: EngineCounts::default(),
            troubles: BTreeMap::new(),
        }
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Absolute counts since the start.
    pub const fn counts(&self) -> EngineCounts {
        self.counts
    }

    /// The first error of each rule that had one.
    pub const fn troubles(&self) -> &BTreeMap<String, String> {
        &self.troubles
    }

    /// The most groups that one rule has.
    #[cfg(test)]
    pub(super) fn largest(&self) -> usize {
        self.groups.iter().map(HashMap::len).max().unwrap_or(0)
    }

    /// Looks at one record.
    pub fn feed(&mut self, record: &Record) -> Vec<Detection> {
        // What rules found is not looked at by rules.
        if let Record::Incident(incident) = record
            && incident.kind == IncidentKind::Detected
        {
            return Vec::new();
        }
        self.counts.records += 1;
        let env = Arc::clone(&self.env);
        let mut context = context(&env);
        facts::put(&mut context, record);
        let mut found = Vec::new();
        for index in 0..self.rules.len() {
            match self.judge(index, &mut context, record) {
                Ok(None) => {}
                Ok(Some(detection)) => found.push(detection),
                Err(error) => {
                    self.counts.errors += 1;
                    let id = self.rules[index].id.clone();
                    self.troubles.entry(id).or_insert(error);
                }
            }
        }
        self.counts.detections += found.len() as u64;
        found
    }

    fn judge(
        &mut self,
        index: usize,
        context: &mut Context<'_, '_>,
        record: &Record,
    ) -> Result<Option<Detection>, String> {
        let rule = &self.rules[index];
        // One rule's are not the next one's.
        let lists = rule.lists.as_ref().unwrap_or(&self.no_lists);
        context.add_variable_from_value(LISTS, lists.clone());
        if !truth(&rule.when, context)? {
            return Ok(None);
        }
        let group: Vec<String> = (rule.by.iter())
            .map(|by| by.execute(context).map(text).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()?;
        let value = (rule.value.as_ref())
            .map(|value| value.execute(context).map_err(|e| e.to_string()))
            .transpose()?;
        let time = match record {
            Record::Flow(flow) => flow.time,
            Record::Incident(incident) => incident.time,
        };
        let at = time.as_nanosecond() as f64 / 1e9;
        let (is_new, known_for) = match (&value, rule.remembers) {
            (Some(value), true) => {
                let value = text(value.clone());
                (self.seen).note(&rule.id, record.agent(), &value, time.as_second())
            }
            _ => (false, 0),
        };
        let groups = &mut self.groups[index];
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&group) {
            let oldest = (groups.iter())
                .min_by(|a, b| a.1.window.last().total_cmp(&b.1.window.last()))
                .map(|(group, _)| group.clone());
            if let Some(oldest) = oldest {
                groups.remove(&oldest);
            }
        }
        let state = groups.entry(group.clone()).or_default();
        state.window.push(at, value, rule.within);
        if at < state.quiet_until {
            return Ok(None);
        }
        if let Some(having) = &rule.having {
            let mut inner = context.new_inner_scope();
            (state.window).put(&mut inner, is_new, known_for, rule.of_intervals);
            if !truth(having, &inner)? {
                return Ok(None);
            }
        }
        let count = state.window.count() as u64;
        state.quiet_until = at + rule.quiet as f64;
        state.window.clear();
        Ok(Some(Detection {
            rule: rule.id.clone(),
            title: rule.title.clone(),
            severity: rule.severity,
            agent: record.agent().to_owned(),
            group,
            count,
            uid: record.uid(),
            seq: record.seq(),
            time,
            actions: rule.actions.iter().copied().collect(),
        }))
    }
}

fn truth(program: &Program, context: &Context<'_, '_>) -> Result<bool, String> {
    match program.execute(context) {
        Ok(Value::Bool(truth)) => Ok(truth),
        Ok(other) => Err(format!("{other:?} is neither true nor false")),
        Err(error) => Err(error.to_string()),
    }
}

/// A value as people read it, and as it is compared.
fn text(value: Value) -> String {
    match value {
        Value::String(text) => (*text).clone(),
        Value::Int(n) => n.to_string(),
        Value::UInt(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => String::new(),
        other => format!("{other:?}"),
    }
}
