//! Line charts in a terminal, drawn with Braille dots: each character is two dots wide and four high.

use quorate_client::SeriesData;

use super::table::show_rounded;
use super::time::show_time;

/// Characters high, without the axis.
const ROWS: usize = 14;
const DOTS_PER_COLUMN: usize = 2;
const DOTS_PER_ROW: usize = 4;

/// More series than these are not told apart.
pub(super) const MAX_SERIES: usize = 7;

/// ANSI colours: cyan, yellow, magenta, green, blue, red, white.
const COLORS: [u8; MAX_SERIES] = [36, 33, 35, 32, 34, 31, 37];

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// The left edge, milliseconds since the Unix epoch.
    pub(super) start_ms: i64,
    /// The right edge.
    pub(super) end_ms: i64,
    /// Between steps: a line breaks where more is missing.
    pub(super) step_ms: i64,
    /// Characters wide, with the axis.
    pub(super) width: usize,
    pub(super) color: bool,
}

/// The series as lines, at most [`MAX_SERIES`] of them; empty when no value is a finite number.
pub(super) fn draw(all: &[SeriesData], frame: Frame) -> String {
    let series = &all[..all.len().min(MAX_SERIES)];
    let Some((low, high)) = bounds(series) else {
        return String::new();
    };
    let labels: Vec<String> = (0..ROWS).map(|row| axis_label(row, low, high)).collect();
    let margin = labels.iter().map(String::len).max().unwrap_or_default();
    let mut canvas = Canvas::new(frame.width.saturating_sub(margin + 2).max(10));
    for (at, series) in series.iter().enumerate() {
        draw_series(&mut canvas, series, at, frame, low, high);
    }
    let mut text = String::new();
    for (row, label) in labels.iter().enumerate() {
        text.push_str(&format!("{label:>margin$} ┤{}\n", canvas.row(row, frame.color)));
    }
    let with_date = frame.end_ms - frame.start_ms >= 86_400_000;
    let (left, right) = (
        show_time(frame.start_ms, with_date),
        show_time(frame.end_ms, with_date),
    );
    let gap = canvas.columns.saturating_sub(left.len() + right.len()).max(1);
    text.push_str(&format!("{:>margin$} └{}\n", "", "─".repeat(canvas.columns)));
    text.push_str(&format!("{:>margin$}  {left}{}{right}\n", "", " ".repeat(gap)));
    text
}

/// The mark before a series in the legend, in its colour.
pub(super) fn legend_mark(at: usize, color: bool) -> String {
    match COLORS.get(at) {
        Some(code) if color => format!("\x1b[{code}m●\x1b[0m"),
        Some(_) => "●".to_owned(),
        None => " ".to_owned(),
    }
}

/// Least and greatest finite value, with room around a constant.
fn bounds(series: &[SeriesData]) -> Option<(f64, f64)> {
    let finite = series
        .iter()
        .flat_map(|series| &series.values)
        .copied()
        .filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return None;
    }
    let room = if low == 0.0 { 1.0 } else { low.abs() / 10.0 };
    Some(if low == high {
        (low - room, high + room)
    } else {
        (low, high)
    })
}

/// Labels at every third row and at the bottom.
fn axis_label(row: usize, low: f64, high: f64) -> String {
    let from_bottom = ROWS - 1 - row;
    if !row.is_multiple_of(3) && from_bottom != 0 || (from_bottom > 0 && from_bottom < 2) {
        return String::new();
    }
    let part = from_bottom as f64 / (ROWS - 1) as f64;
    // Weighted so that no sum overflows.
    show_rounded(low * (1.0 - part) + high * part)
}

fn draw_series(canvas: &mut Canvas, series: &SeriesData, at: usize, frame: Frame, low: f64, high: f64) {
    let span_ms = (frame.end_ms - frame.start_ms).max(1) as f64;
    let (wide, tall) = (canvas.columns * DOTS_PER_COLUMN, ROWS * DOTS_PER_ROW);
    let mut before: Option<(i64, (i64, i64))> = None;
    for sample in series.samples() {
        if !sample.value.is_finite() {
            before = None;
            continue;
        }
        let right = (sample.timestamp_ms - frame.start_ms) as f64 / span_ms;
        // Halved first: the difference of two huge values overflows.
        let up = (sample.value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
        let dot = (
            (right * (wide - 1) as f64).round() as i64,
            ((1.0 - up) * (tall - 1) as f64).round() as i64,
        );
        let joined =
            before.filter(|(time_ms, _)| sample.timestamp_ms - time_ms <= frame.step_ms.saturating_mul(2));
        canvas.line(joined.map_or(dot, |(_, from)| from), dot, at);
        before = Some((sample.timestamp_ms, dot));
    }
}

/// Dots, and which series drew last in each character.
struct Canvas {
    columns: usize,
    cells: Vec<(u8, usize)>,
}

impl Canvas {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            cells: vec![(0, 0); columns * ROWS],
        }
    }

    /// Sets a dot; those outside are left out.
    fn dot(&mut self, x: i64, y: i64, series: usize) {
        /// Bits of the dots in a Braille character, by column and row.
        const BITS: [[u8; DOTS_PER_ROW]; DOTS_PER_COLUMN] =
            [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        let (column, row) = (x / DOTS_PER_COLUMN, y / DOTS_PER_ROW);
        if column < self.columns && row < ROWS {
            let cell = &mut self.cells[row * self.columns + column];
            *cell = (cell.0 | BITS[x % DOTS_PER_COLUMN][y % DOTS_PER_ROW], series);
        }
    }

    fn line(&mut self, from: (i64, i64), to: (i64, i64), series: usize) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
        // Both ends are on the canvas or the line is not seen; this bounds the work.
        let limit = (self.columns * DOTS_PER_COLUMN + ROWS * DOTS_PER_ROW) as i64;
        if steps > limit {
            return self.dot(to.0, to.1, series);
        }
        for step in 0..=steps {
            let at = |a: i64, b: i64| a + ((b - a) as f64 * step as f64 / steps as f64).round() as i64;
            self.dot(at(from.0, to.0), at(from.1, to.1), series);
        }
    }

    fn row(&self, row: usize, color: bool) -> String {
        let mut text = String::new();
        let mut current = None;
        for (bits, series) in &self.cells[row * self.columns..(row + 1) * self.columns] {
            let wanted = (*bits != 0).then_some(COLORS[*series % COLORS.len()]);
            if color && wanted.is_some() && wanted != current {
                text.push_str(&format!("\x1b[{}m", wanted.unwrap_or_default()));
                current = wanted;
            }
            let braille = char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' ');
            text.push(if *bits == 0 { ' ' } else { braille });
        }
        if current.is_some() {
            text.push_str("\x1b[0m");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(end_ms: i64) -> Frame {
        Frame {
            start_ms: 0,
            end_ms,
            step_ms: 1_000,
            width: 60,
            color: false,
        }
    }

    fn series(values: &[f64]) -> SeriesData {
        let timestamps_ms = (0..values.len() as i64).map(|at| at * 1_000).collect();
        SeriesData {
            timestamps_ms,
            values: values.to_vec(),
            ..SeriesData::default()
        }
    }

    #[test]
    fn a_rising_line_goes_from_the_lower_left_to_the_upper_right() {
        let values: Vec<f64> = (0..=50).map(f64::from).collect();
        let text = draw(&[series(&values)], frame(50_000));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS + 2);
        assert!(lines[0].trim_start().starts_with("50 ┤"), "{text}");
        assert!(lines[ROWS - 1].trim_start().starts_with("0 ┤"), "{text}");
        let column = |line: &str| {
            let dots: Vec<usize> = line
                .chars()
                .enumerate()
                .filter(|(_, c)| ('⠁'..='⣿').contains(c))
                .map(|(at, _)| at)
                .collect();
            dots.iter().sum::<usize>() as f64 / dots.len() as f64
        };
        let columns: Vec<f64> = lines[..ROWS].iter().map(|line| column(line)).collect();
        assert!(columns.is_sorted_by(|above, below| above > below), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn a_gap_breaks_the_line() {
        let mut gappy = series(&[1.0, 1.0, 1.0, 1.0]);
        gappy.timestamps_ms = vec![0, 1_000, 49_000, 50_000];
        let dots = |text: &str| text.chars().filter(|c| ('⠁'..='⣿').contains(c)).count();
        let drawn = dots(&draw(&[gappy.clone()], frame(50_000)));
        assert!((2..=6).contains(&drawn), "{drawn}");
        gappy.timestamps_ms = vec![0, 2_000, 4_000, 6_000];
        assert!(dots(&draw(&[gappy], frame(50_000))) > drawn);
    }

    #[test]
    fn strange_values_are_survived() {
        assert_eq!(draw(&[], frame(1)), "");
        assert_eq!(draw(&[series(&[f64::NAN, f64::INFINITY])], frame(1_000)), "");
        for values in [
            vec![0.0],
            vec![f64::MAX, f64::MIN],
            vec![1e-320, f64::NAN, -1e-320],
            vec![5.0; 9],
        ] {
            let text = draw(&[series(&values)], frame(8_000));
            assert!(
                text.chars().any(|c| ('⠁'..='⣿').contains(&c)),
                "{values:?}\n{text}"
            );
        }
        let backwards = Frame {
            start_ms: 9_000,
            end_ms: 0,
            step_ms: 0,
            width: 0,
            color: true,
        };
        draw(&[series(&[1.0, 2.0])], backwards);
    }

    #[test]
    fn colours_end_where_they_should() {
        let two = [series(&[0.0, 0.0]), series(&[1.0, 1.0])];
        let text = draw(
            &two,
            Frame {
                color: true,
                ..frame(1_000)
            },
        );
        assert_eq!(
            text.matches("\x1b[36m").count(),
            text.lines().filter(|line| line.contains("\x1b[36m")).count()
        );
        assert!(text.contains("\x1b[33m"));
        assert!(
            text.lines()
                .all(|line| !line.contains("\x1b[3") || line.ends_with("\x1b[0m"))
        );
        assert_ne!(legend_mark(0, true), legend_mark(1, true));
        assert_eq!(legend_mark(MAX_SERIES, true), " ");
    }
}
