//! One side of a histogram: spans and what is in their buckets, plain or with compensation.

use super::Span;
use super::bounds::exponential_bound;

/// What a bucket holds while histograms are added up.
pub(super) trait Number: Copy + Default {
    /// Adds a plain number.
    fn add(&mut self, increment: f64);
    /// Adds another of its kind.
    fn merge(&mut self, other: Self);
    /// Whether nothing was counted.
    fn is_zero(self) -> bool;
}

impl Number for f64 {
    fn add(&mut self, increment: f64) {
        *self += increment;
    }

    fn merge(&mut self, other: f64) {
        *self += other;
    }

    fn is_zero(self) -> bool {
        self == 0.0
    }
}

/// (index, content) of each bucket, ascending by index.
pub(super) fn forward<'a, T: Copy>(
    spans: &'a [Span],
    buckets: &'a [T],
) -> impl Iterator<Item = (i64, T)> + 'a {
    let ranges = spans.iter().scan(0_i64, |next, span| {
        let start = *next + i64::from(span.offset);
        *next = start + i64::from(span.length);
        Some(start..*next)
    });
    ranges.flatten().zip(buckets.iter().copied())
}

/// (index, content) of each bucket, descending by index.
pub(super) fn reverse<'a, T: Copy>(
    spans: &'a [Span],
    buckets: &'a [T],
) -> impl Iterator<Item = (i64, T)> + 'a {
    let reach = |span: &Span| i64::from(span.offset) + i64::from(span.length);
    let end: i64 = spans.iter().map(reach).sum();
    let ranges = spans.iter().rev().scan(end, |end, span| {
        let range = *end - i64::from(span.length)..*end;
        *end = range.start - i64::from(span.offset);
        Some(range.rev())
    });
    ranges.flatten().zip(buckets.iter().rev().copied())
}

/// Buckets and the spans they are in.
#[derive(Clone, Debug, Default)]
pub(super) struct Side<T> {
    pub(super) spans: Vec<Span>,
    pub(super) buckets: Vec<T>,
    /// One past the index of the last bucket.
    end: i64,
}

impl<T: Number> Side<T> {
    pub(super) fn with_capacity(buckets: usize) -> Side<T> {
        Side {
            spans: Vec::new(),
            buckets: Vec::with_capacity(buckets),
            end: 0,
        }
    }

    /// Takes over spans and buckets that belong together.
    pub(super) fn of(spans: Vec<Span>, buckets: Vec<T>) -> Side<T> {
        let reach = |span: &Span| i64::from(span.offset) + i64::from(span.length);
        let end = spans.iter().map(reach).sum();
        Side { spans, buckets, end }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, T)> + '_ {
        forward(&self.spans, &self.buckets)
    }

    /// Appends a bucket. Those of one index, which must not fall, become one.
    fn push(&mut self, index: i64, content: T) {
        match (self.buckets.last_mut(), self.spans.last_mut()) {
            (Some(last), _) if index < self.end => {
                last.merge(content);
                return;
            }
            (_, Some(span)) if index == self.end && span.length < u32::MAX => span.length += 1,
            _ => self.spans.push(Span {
                // Indices of valid layouts fit.
                offset: i32::try_from(index - self.end).unwrap_or(i32::MAX),
                length: 1,
            }),
        }
        self.end = index + 1;
        self.buckets.push(content);
    }

    /// The side with each bucket put where `place` says; places must not fall.
    fn moved(&self, place: impl Fn(i64) -> i64) -> Side<T> {
        let mut moved = Side::with_capacity(self.buckets.len());
        self.iter()
            .for_each(|(index, content)| moved.push(place(index), content));
        moved
    }

    /// The side at a coarser schema.
    pub(super) fn reduced(&self, schema: i32, target: i32) -> Side<T> {
        self.moved(|index| ((index - 1) >> (schema - target)) + 1)
    }

    /// Custom buckets at fewer bounds, each of which is among `bounds`.
    pub(super) fn with_bounds(&self, bounds: &[f64], fewer: &[f64]) -> Side<T> {
        self.moved(|index| {
            let bound = usize::try_from(index).ok().and_then(|index| bounds.get(index));
            let place = match bound {
                Some(bound) => fewer.partition_point(|other| other < bound),
                None => fewer.len(),
            };
            place as i64
        })
    }

    /// Keeps the buckets that `keep` says by index and content.
    pub(super) fn retain(&mut self, keep: impl Fn(i64, T) -> bool) {
        let mut kept = Side::with_capacity(self.buckets.len());
        for (index, content) in self.iter() {
            if keep(index, content) {
                kept.push(index, content);
            }
        }
        *self = kept;
    }

    /// Adds `sign` times each bucket of `other`, which must be at the same schema. Buckets that end at or below
    /// `zero_threshold` are left out: their content is in the zero bucket.
    pub(super) fn add(&mut self, other: &Side<f64>, sign: f64, zero_threshold: Option<(f64, i32)>) {
        let is_inside_zero = |index: i64| {
            zero_threshold.is_some_and(|(threshold, schema)| exponential_bound(index, schema) <= threshold)
        };
        let begins_outside = other
            .iter()
            .next()
            .is_none_or(|(index, _)| !is_inside_zero(index));
        if begins_outside && self.spans == other.spans {
            for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
                sum.add(sign * more);
            }
            return;
        }
        let mut sum = Side::with_capacity(self.buckets.len() + other.buckets.len());
        let mut own = self.iter().peekable();
        for (index, more) in other.iter().skip_while(|(index, _)| is_inside_zero(*index)) {
            while let Some((before, content)) = own.next_if(|(own, _)| *own < index) {
                sum.push(before, content);
            }
            let mut content = own
                .next_if(|(own, _)| *own == index)
                .map_or_else(T::default, |(_, content)| content);
            content.add(sign * more);
            sum.push(index, content);
        }
        own.for_each(|(index, content)| sum.push(index, content));
        drop_spare(&mut sum.buckets);
        *self = sum;
    }
}

/// Gives memory back if much of it is unused.
fn drop_spare<T>(buckets: &mut Vec<T>) {
    if buckets.capacity() > buckets.len() * 2 {
        buckets.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(start: i32, buckets: &[f64]) -> Side<f64> {
        let span = Span {
            offset: start,
            length: buckets.len() as u32,
        };
        Side::of(vec![span], buckets.to_vec())
    }

    fn pairs(side: &Side<f64>) -> Vec<(i64, f64)> {
        side.iter().collect()
    }

    #[test]
    fn adding_joins_both_sets_of_buckets() {
        let mut sum = side(0, &[1.0, 2.0]);
        sum.add(&side(1, &[10.0]), 1.0, None);
        sum.add(&side(4, &[5.0]), -1.0, None);
        assert_eq!(pairs(&sum), [(0, 1.0), (1, 12.0), (4, -5.0)]);
        assert_eq!(
            sum.spans,
            [Span { offset: 0, length: 2 }, Span { offset: 2, length: 1 }]
        );
        let mut low = Side::default();
        low.add(&side(-2, &[1.0, 2.0, 4.0]), 1.0, Some((0.5, 0)));
        assert_eq!(pairs(&low), [(0, 4.0)]);
    }

    #[test]
    fn coarser_buckets_take_the_finer_in() {
        let reduced = side(-3, &[1.0, 2.0, 4.0, 8.0, 16.0]).reduced(1, 0);
        assert_eq!(pairs(&reduced), [(-1, 1.0 + 2.0), (0, 4.0 + 8.0), (1, 16.0)]);
        let fewer = side(0, &[1.0, 2.0, 4.0, 8.0]).with_bounds(&[1.0, 2.0, 3.0], &[2.0]);
        assert_eq!(pairs(&fewer), [(0, 3.0), (1, 12.0)]);
    }
}
