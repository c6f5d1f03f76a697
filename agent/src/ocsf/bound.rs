//! No event is longer than what every receiver takes: the longest parts are cut, and it says so.

use serde_json::{Value, json};

/// Bytes of a string, entries of a list or of a map of words: ever less, until it fits.
const RUNGS: [(usize, usize); 5] = [(1024, 64), (512, 32), (192, 16), (96, 8), (48, 4)];

/// What a cut string ends with.
pub(super) const CUT: &str = "…";

/// The event in at most `max` bytes of JSON.
pub(super) fn bound(mut event: Value, max: usize) -> Value {
    let before = length(&event);
    let mut cut = false;
    for (rung, (bytes, entries)) in RUNGS.into_iter().enumerate() {
        // The first rung is for every event: one endless field is no use to anybody.
        if rung > 0 && length(&event) <= max {
            break;
        }
        cut |= shorten(&mut event, bytes, entries);
    }
    if length(&event) > max {
        cut = true;
        event["unmapped"] = json!({});
    }
    if cut {
        event["metadata"]["is_truncated"] = true.into();
        event["metadata"]["untruncated_size"] = before.into();
    }
    event
}

fn length(event: &Value) -> usize {
    // A Value always serializes.
    serde_json::to_vec(event).map_or(0, |bytes| bytes.len())
}

/// Whether anything was longer.
fn shorten(value: &mut Value, bytes: usize, entries: usize) -> bool {
    match value {
        Value::String(text) if text.len() > bytes => {
            text.truncate(text.floor_char_boundary(bytes - CUT.len()));
            text.push_str(CUT);
            true
        }
        Value::Array(list) => {
            let long = list.len() > entries;
            list.truncate(entries);
            list.iter_mut()
                .fold(long, |cut, item| shorten(item, bytes, entries) | cut)
        }
        Value::Object(map) => {
            let mut cut = false;
            if let Some(Value::Object(facts)) = map.get_mut("facts")
                && facts.len() > entries
            {
                cut = true;
                let gone: Vec<String> = facts.keys().skip(entries).cloned().collect();
                for key in gone {
                    facts.remove(&key);
                }
            }
            map.values_mut()
                .fold(cut, |cut, item| shorten(item, bytes, entries) | cut)
        }
        _ => false,
    }
}
