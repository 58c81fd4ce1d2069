//! A table whose numbers and ids are never cut: where it is too wide, texts are shortened, and then columns are left out, those
//! on the right first.

use std::iter::once;

use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Row, Table};

use super::room::{Wish, least, share};

/// The lines of a table beside its rows: the title and the header.
const HEAD: u16 = 2;

#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    header: &'static str,
    /// How far its cells may be shortened; `None` for numbers and ids.
    shortest: Option<u16>,
}

/// A column of numbers or ids.
pub(super) const fn whole(header: &'static str) -> Column {
    Column { header, shortest: None }
}

/// A column of texts, which are shortened to so many characters before a column is left out.
pub(super) const fn text(header: &'static str, shortest: u16) -> Column {
    Column { header, shortest: Some(shortest) }
}

pub(super) struct Listing {
    pub(super) title: &'static str,
    /// How many rows there are in all, in words. Not all of them may be in `rows`.
    pub(super) in_all: String,
    pub(super) columns: Vec<Column>,
    /// Each with a cell for each column.
    pub(super) rows: Vec<(Style, Vec<String>)>,
}

impl Listing {
    /// The lines that it needs, with one row if it has any, and those that it can use.
    pub(super) fn height(&self) -> Wish {
        let rows = u16::try_from(self.rows.len()).unwrap_or(u16::MAX);
        Wish { least: HEAD + rows.min(1), most: HEAD.saturating_add(rows) }
    }

    /// As it is shown on so much of the terminal.
    pub(super) fn fitted(self, area: Rect) -> Table<'static> {
        let widths = self.widths(area.width);
        let shown = self.rows.len().min(area.height.saturating_sub(HEAD).into());
        let title = format!("{}, {shown} of {}", self.title, self.in_all);
        let rows = self.rows.into_iter().map(|(style, cells)| {
            Row::new(cells.iter().zip(&widths).map(|(cell, &width)| shortened(cell, width)).collect::<Vec<_>>())
                .style(style)
        });
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let dim = Style::new().add_modifier(Modifier::DIM);
        Table::new(rows, widths.iter().map(|&width| Constraint::Length(width)))
            .column_spacing(1)
            .header(Row::new(self.columns.iter().take(widths.len()).map(|column| column.header)).style(dim))
            .block(Block::new().borders(Borders::NONE).title(Line::styled(title, bold)))
    }

    /// Of the columns that are shown.
    fn widths(&self, width: u16) -> Vec<u16> {
        let wish = |(at, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|(_, cells)| cells.get(at)).map(|cell| width_of(cell));
            let most = cells.chain(once(width_of(column.header))).max().unwrap_or_default();
            Wish { least: column.shortest.map_or(most, |shortest| most.min(shortest)), most }
        };
        let mut wishes: Vec<Wish> = self.columns.iter().enumerate().map(wish).collect();
        loop {
            // One blank stands between two columns.
            let blanks = u16::try_from(wishes.len().saturating_sub(1)).unwrap_or(u16::MAX);
            let room = width.saturating_sub(blanks);
            if wishes.len() <= 1 || least(&wishes) <= room {
                return share(room, &wishes);
            }
            wishes.pop();
        }
    }
}

/// The columns of the terminal that a text takes.
pub(super) fn width_of(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// The beginning and the end of a text, with `…` between them if it is too wide. Names of pods differ at their ends.
fn shortened(text: &str, width: u16) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let begin: String = taken(text.chars(), kept - kept / 2).into_iter().collect();
    let end: String = taken(text.chars().rev(), kept / 2).into_iter().rev().collect();
    format!("{begin}…{end}")
}

/// The characters that there is room for.
fn taken(chars: impl Iterator<Item = char>, mut room: u16) -> Vec<char> {
    let fits = |char: &char| {
        let left = room.checked_sub(width_of(char.encode_utf8(&mut [0; 4])));
        room = left.unwrap_or(room);
        left.is_some()
    };
    chars.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shortened_first_and_then_columns_are_left_out_from_the_right() {
        let columns = vec![whole("N"), text("NAME", 4), whole("ID")];
        let cells = ["1,000", "a long name", "123456"].map(str::to_owned).to_vec();
        let listing = Listing { title: "", in_all: "1".to_owned(), columns, rows: vec![(Style::new(), cells)] };
        let of = |width| listing.widths(width);
        assert_eq!(of(100), [5, 11, 6]);
        assert_eq!(of(24), [5, 11, 6]);
        assert_eq!(of(17), [5, 4, 6]);
        assert_eq!(of(16), [5, 10]);
        assert_eq!(of(9), [5]);
    }

    #[test]
    fn a_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("penr-webhooks-worker-7d9f8", 26), "penr-webhooks-worker-7d9f8");
        assert_eq!(shortened("penr-webhooks-worker-7d9f8", 12), "penr-w…7d9f8");
        // Two columns each.
        assert_eq!(shortened("日本語日本語", 8), "日本…語");
        assert_eq!(shortened("ab", 1), "…");
    }
}
