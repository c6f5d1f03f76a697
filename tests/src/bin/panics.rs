//! Has the screen of `exeat top`, draws on it, and at the first key panics: `drawing` while it
//! draws, `between` outside of that, `thread` on another thread while this one draws on.

use exeat::top::screen::Screen;
use ratatui::crossterm::event;
use ratatui::text::Text;

fn draw(screen: &mut Screen) -> std::io::Result<()> {
    screen.draw(|frame| frame.render_widget(Text::raw("a whole picture"), frame.area()))
}

fn boom() -> ! {
    panic!("a panic for the test")
}

fn main() -> anyhow::Result<()> {
    let how = std::env::args().nth(1);
    let mut screen = Screen::take()?;
    draw(&mut screen)?;
    event::read()?;
    match how.as_deref() {
        Some("drawing") => screen.draw(|_| boom())?,
        Some("between") => boom(),
        Some("thread") => {
            std::thread::spawn(|| boom());
            // Until the screen says that somebody has given it back.
            loop {
                draw(&mut screen)?;
            }
        }
        _ => anyhow::bail!("drawing, between or thread"),
    }
    Ok(())
}
