//! Columns of text.

/// A table whose columns are as wide as what is in them.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

/// What stands in a column.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    /// As in ECMA-48, such as 32 for green.
    colour: Option<u8>,
}

impl Cell {
    pub(super) fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Some(32) }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Some(31) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: None }
    }
}

impl Table {
    /// With these titles, or none.
    pub(super) fn new(titles: &[&str]) -> Self {
        let titles: Vec<Cell> = titles.iter().map(|title| (*title).into()).collect();
        Self { rows: if titles.is_empty() { Vec::new() } else { vec![titles] } }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn text(&self, colours: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let padding = " ".repeat(width - cell.text.chars().count() + 2);
                match cell.colour.filter(|_| colours) {
                    Some(colour) => line += &format!("\x1b[{colour}m{}\x1b[0m{padding}", cell.text),
                    None => line += &format!("{}{padding}", cell.text),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_colours_take_no_room() {
        let mut table = Table::new(&["NAME", "OPEN"]);
        table.row(vec!["a-long-name".into(), Cell::good("3")]);
        table.row(vec!["b".into(), Cell::bad("0")]);
        assert_eq!(table.text(false), "NAME         OPEN\na-long-name  3\nb            0\n");
        assert_eq!(table.text(true).lines().nth(1), Some("a-long-name  \x1b[32m3\x1b[0m"));
    }
}
