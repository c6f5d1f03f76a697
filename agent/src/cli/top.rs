//! `exeat top`: the daemon's state, refusals and questions, live.

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::exit::{Exit, Failure};
use super::output::Style;
use crate::top::feed::Feed;
use crate::top::screen::{Screen, there};
use crate::top::{Act, App, Update, view};

/// The shortest time between two pictures.
const FRAME: Duration = Duration::from_millis(40);
/// The longest: times on the screen go on though nothing happens.
const IDLE: Duration = Duration::from_secs(1);

/// What to show.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct TopArgs {
    /// Only this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Seconds between two looks at the daemon's counters
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give a number of seconds from 0.1 to 3600".into()),
    }
}

/// Shows until it is told to end.
pub fn run(socket: &Path, args: &TopArgs) -> Result<Exit, Failure> {
    if !there() {
        return Err(Failure::new(
            Exit::Usage,
            "top needs a terminal for its picture and its keys (and TERM other than `dumb`): \
             elsewhere use `exeat status --output json` or `exeat events --follow`",
        ));
    }
    let colour = Style::stdout().colour;
    let (feed, updates) = Feed::start(socket, args.agent.as_deref(), args.interval)?;
    let mut screen = Screen::take()?;
    let mut app = App::new(args.agent.clone());
    let zone = TimeZone::system();
    loop {
        let drawn = Instant::now();
        screen.draw(|frame| view::draw(frame, &app, &view::Now::new(&zone, colour)))?;
        let mut wait = IDLE;
        loop {
            let update = match updates.recv_timeout(wait) {
                Ok(update) => update,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => Update::End,
            };
            match app.apply(update) {
                Some(Act::Quit) => return Ok(Exit::Ok),
                Some(Act::Answer { question, choice }) => feed.answer(question, choice),
                None => {}
            }
            // What comes in a burst is one picture.
            wait = FRAME.saturating_sub(drawn.elapsed());
            if wait.is_zero() {
                break;
            }
        }
    }
}

impl view::Now {
    /// This moment, for a person in this zone.
    fn new(zone: &TimeZone, colour: bool) -> Self {
        Self {
            time: Timestamp::now(),
            zone: zone.clone(),
            colour,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_sensible_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "1e9", "NaN", "inf", "soon", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
