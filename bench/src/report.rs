//! Tables for people. Numbers stand to the right, so that columns can be compared at a glance.

use std::io::Write;

/// Writes to standard output; a reader that went away is no reason to stop measuring.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Says what is being done, to those who wait.
pub(crate) fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "  {line}");
}

/// A table: the first column to the left, the others to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let cell = if n == 0 { format!("{cell:<width$}") } else { format!("   {cell:>width$}") };
            text.push_str(&cell);
        }
        say(text.trim_end());
    };
    line(&head.iter().map(ToString::to_string).collect::<Vec<_>>());
    say(&"-".repeat(widths.iter().sum::<usize>() + 3 * widths.len().saturating_sub(1)));
    for row in rows {
        line(row);
    }
}

/// `12345` as `12 345`.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Rounded to so many decimals, for JSON.
pub(crate) fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0.4, 999.0, 1000.0, 1_234_567.0].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(rounded(0.123_456, 3), 0.123);
    }
}
