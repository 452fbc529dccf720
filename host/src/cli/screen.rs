//! Redraws a terminal, using only escape sequences that all terminals support.

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::out::{self, CliError};
use super::table::clipped;

/// The assumed size of a terminal that does not report one: columns and rows.
const SIZE: (usize, usize) = (80, 24);

/// The keys that quit, including Ctrl-C and Ctrl-D, which send no signals in this mode.
const QUIT_KEYS: [u8; 4] = [b'q', b'Q', 3, 4];

/// Returns whether stdout is a terminal.
pub(super) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Lines that are redrawn in the same place.
#[derive(Default)]
pub(super) struct InPlace {
    drawn: usize,
}

impl InPlace {
    /// Draws as many of the lines as there are rows.
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

/// The whole screen, with the keyboard in raw mode. Dropping it restores the terminal.
pub(super) struct FullScreen {
    /// The previous keyboard mode, if stdin is a terminal.
    before: Option<Termios>,
}

impl FullScreen {
    /// Switches to the alternate screen.
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

    /// Draws as many of the lines as there are rows, from the top.
    pub(super) fn draw(&self, lines: &[String]) -> Result<(), CliError> {
        let (columns, rows) = size();
        let lines = lines.iter().take(rows).map(|line| format!("{}\x1b[K", clipped(line, columns)));
        out::print(&format!("\x1b[H{}\x1b[J", lines.collect::<Vec<_>>().join("\r\n")))
    }

    /// Waits for `timeout`. Returns `true` as soon as `q`, Ctrl-C or Ctrl-D is pressed.
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
            // The terminal is closed.
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

/// Waits for this time, or until a signal.
pub(super) fn pause(time: Duration) {
    let _ = poll(&mut [], timespec(time).as_ref());
}

fn timespec(time: Duration) -> Option<Timespec> {
    Timespec::try_from(time).ok()
}

/// Returns the usable columns, and the rows. The last column is left empty, since writing to it may wrap the line.
fn size() -> (usize, usize) {
    let (columns, rows) = match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    };
    (columns - 1, rows)
}
