//! Owns what stands on the terminal: frames drawn over each other in place. Where there is no terminal, now and then a block of
//! plain lines.

use std::io;
use std::time::{Duration, Instant};

use console::{Term, measure_text_width, truncate_str};

const PLAIN_EVERY: Duration = Duration::from_secs(10);
const PLAIN: Size = Size { columns: 80, rows: 30 };
/// Smaller terminals get this too: what does not fit is cut off.
const LEAST: Size = Size { columns: 80, rows: 23 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

pub(crate) struct Screen<'a> {
    /// None: no terminal.
    terminal: Option<Term>,
    /// Lines printed before.
    above: &'a [String],
    /// Size at the last frame, and its lines.
    drawn: Option<(Size, usize)>,
    /// When plain lines are due; none: now.
    next_plain: Option<Instant>,
}

impl<'a> Screen<'a> {
    /// `above`: lines printed before that had better stay in sight, if there is room.
    pub(crate) fn below(above: &'a [String]) -> Self {
        let terminal = Some(Term::buffered_stdout()).filter(|terminal| terminal.features().is_attended());
        Self { terminal, above, drawn: None, next_plain: Some(Instant::now() + PLAIN_EVERY) }
    }

    /// Draws what `frame` gives for the size there is, over the frame before.
    pub(crate) fn draw(&mut self, frame: impl FnOnce(Size) -> Vec<String>) -> io::Result<()> {
        let Some(terminal) = &self.terminal else {
            if self.next_plain.is_none_or(|due| Instant::now() >= due) {
                self.next_plain = Some(Instant::now() + PLAIN_EVERY);
                print(&frame(PLAIN))?;
                print(&[String::new()])?;
            }
            return Ok(());
        };
        let (rows, columns) = terminal.size();
        // The last row belongs to the cursor.
        let (rows, columns) = (usize::from(rows).saturating_sub(1), usize::from(columns));
        let above = self.above.iter().map(|line| measure_text_width(line).div_ceil(columns.max(1)).max(1));
        let free = rows.saturating_sub(above.sum::<usize>() + 1); // and an empty line
        let size =
            Size { columns: columns.max(LEAST.columns), rows: if free >= LEAST.rows { free } else { rows.max(LEAST.rows) } };
        let mut lines = frame(size);
        lines.truncate(rows);
        match self.drawn {
            Some((before, lines)) if before == size => terminal.clear_last_lines(lines)?,
            // What a terminal makes of the old lines at another size is its own secret.
            Some(_) => terminal.clear_screen()?,
            None => {}
        }
        for line in &lines {
            terminal.write_line(&truncate_str(line, columns, "…"))?;
        }
        terminal.flush()?;
        self.drawn = Some((size, lines.len()));
        Ok(())
    }

    /// The last frame stays, also where there is no terminal and its time has not come.
    pub(crate) fn draw_last(&mut self, frame: impl FnOnce(Size) -> Vec<String>) -> io::Result<()> {
        self.next_plain = None;
        self.draw(frame)
    }
}

/// Prints lines; where nobody reads them any more, that is an error, and ends the demo.
pub(crate) fn print(lines: &[String]) -> io::Result<()> {
    let terminal = Term::buffered_stdout();
    lines.iter().try_for_each(|line| terminal.write_line(line))?;
    terminal.flush()
}
