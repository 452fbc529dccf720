//! A terminal that is drawn on again and again, with nothing but the escape sequences that every one has.

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::out::{self, CliError};
use super::table::clipped;

/// What a terminal is taken for that does not say its size: columns and rows.
const SIZE: (usize, usize) = (80, 24);

/// Also Ctrl-C and Ctrl-D, as a terminal sends them that makes no signals of them.
const QUIT_KEYS: [u8; 4] = [b'q', b'Q', 3, 4];

/// Whether people read what is printed.
pub(super) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Lines that stand where the last ones stood.
#[derive(Default)]
pub(super) struct InPlace {
    drawn: usize,
}

impl InPlace {
    /// Draws them: as many as there are rows for.
    pub(super) fn draw(&mut self, lines: &[String]) -> Result<(), CliError> {
        let mut text = match self.drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A\r"),
        };
        let (columns, rows) = size();
        let fits = lines.iter().take(rows.saturating_sub(1));
        self.drawn = fits.len();
        fits.for_each(|line| text.push_str(&format!("{}\x1b[K\n", clipped(line, columns))));
        text.push_str("\x1b[J");
        out::print(&text)
    }
}

/// The whole screen, and the keyboard without its echo; the terminal is as it was once this is dropped.
pub(super) struct FullScreen {
    /// How the keyboard was, if there is one.
    before: Option<Termios>,
}

impl FullScreen {
    /// Takes the screen.
    pub(super) fn take() -> Result<Self, CliError> {
        let before = stdin().is_terminal().then(|| tcgetattr(stdin()).ok()).flatten();
        if let Some(before) = &before {
            let mut keys = before.clone();
            keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            keys.special_codes[SpecialCodeIndex::VMIN] = 1;
            keys.special_codes[SpecialCodeIndex::VTIME] = 0;
            let _ = tcsetattr(stdin(), OptionalActions::Now, &keys);
        }
        let screen = Self { before };
        out::print("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    /// Draws the lines from the top: as many as there are rows for.
    pub(super) fn draw(&self, lines: &[String]) -> Result<(), CliError> {
        let (columns, rows) = size();
        let lines = lines.iter().take(rows).map(|line| format!("{}\x1b[K", clipped(line, columns)));
        out::print(&format!("\x1b[H{}\x1b[J", lines.collect::<Vec<_>>().join("\r\n")))
    }

    /// Waits, and says whether somebody wants to leave: `q`, Ctrl-C or Ctrl-D.
    pub(super) fn quit_within(&self, timeout: Duration) -> bool {
        if self.before.is_none() {
            pause(timeout);
            return false;
        }
        let keyboard = stdin();
        let mut keys = [PollFd::new(&keyboard, PollFlags::IN)];
        if !matches!(poll(&mut keys, timespec(timeout).as_ref()), Ok(1..)) {
            return false;
        }
        let mut typed = [0; 16];
        match rustix::io::read(&keyboard, &mut typed) {
            // The terminal is gone.
            Ok(0) | Err(_) => true,
            Ok(read) => typed.iter().take(read).any(|key| QUIT_KEYS.contains(key)),
        }
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        let _ = out::print("\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Waits so long, or until a signal.
pub(super) fn pause(time: Duration) {
    let _ = poll(&mut [], timespec(time).as_ref());
}

fn timespec(time: Duration) -> Option<Timespec> {
    Timespec::try_from(time).ok()
}

/// Columns that can be written to, and rows. Not the last column: after it a terminal is about to begin a new line.
fn size() -> (usize, usize) {
    let (columns, rows) = match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    };
    (columns - 1, rows)
}
