//! What a cluster holds in the end, in a form that fits into a history: samples that are as they were sent
//! are named by their batch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Level, WriterOutcomes};

/// All that a node returned of one writer's series.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The node asked.
    pub node: u64,
    /// The level asked for; none when it was not this cluster that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Whose series.
    pub writer: u32,
    /// Series that hold the same batches, together.
    pub groups: Vec<Group>,
}

/// Series of a writer that hold the same batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Ranges of series numbers, both ends inclusive.
    pub series: Vec<(u32, u32)>,
    /// Ranges of batch numbers whose sample is there with the bits that were sent, both ends inclusive.
    pub batches: Vec<(u64, u64)>,
    /// Every other sample: timestamps with bits. Only where the group is one series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(i64, u64)>,
}

/// What a node says of its replica of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSum {
    /// The shard.
    pub shard: u32,
    /// Log index applied.
    pub applied: u64,
    /// Of everything stored.
    pub checksum: u64,
    /// Series.
    pub series: u64,
    /// Samples.
    pub samples: u64,
}

/// Sorts what a node returned of a writer into batches, series by series.
#[derive(Debug)]
pub struct Sorter<'a> {
    outcomes: &'a WriterOutcomes,
    groups: BTreeMap<Vec<(u64, u64)>, Vec<u32>>,
    strange: Vec<Group>,
}

impl<'a> Sorter<'a> {
    /// Of a writer with these batches.
    pub fn new(outcomes: &'a WriterOutcomes) -> Sorter<'a> {
        Sorter {
            outcomes,
            groups: BTreeMap::new(),
            strange: Vec::new(),
        }
    }

    /// Adds all samples of a series: timestamps with bits, in any order.
    pub fn add(&mut self, series: u32, points: &mut [(i64, u64)]) {
        if !points.is_sorted() {
            points.sort_unstable();
        }
        let mut batches = self
            .outcomes
            .of_series(series)
            .map(|known| known.batch)
            .peekable();
        let mut contenders = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut others = Vec::new();
        for same_time in points.chunk_by(|left, right| left.0 == right.0) {
            let Some(&(timestamp_ms, _)) = same_time.first() else {
                continue;
            };
            while batches
                .next_if(|batch| batch.timestamp_ms < timestamp_ms)
                .is_some()
            {}
            contenders.clear();
            contenders.extend(std::iter::from_fn(|| {
                batches.next_if(|batch| batch.timestamp_ms == timestamp_ms)
            }));
            for point in same_time {
                let sent = contenders
                    .iter()
                    .position(|batch| batch.bits_of(series) == Some(point.1));
                match sent {
                    // Each sample is there once; a second one is strange.
                    Some(at) => numbers.push(contenders.swap_remove(at).number),
                    None => others.push(*point),
                }
            }
        }
        let batches = ranges(&mut numbers);
        match others.is_empty() {
            true => self.groups.entry(batches).or_default().push(series),
            false => self.strange.push(Group {
                series: vec![(series, series)],
                batches,
                others,
            }),
        }
    }

    /// Everything added.
    pub fn finish(self, node: u64, level: Option<Level>, writer: u32) -> Found {
        let group = |(batches, mut series): (Vec<(u64, u64)>, Vec<u32>)| Group {
            series: ranges(&mut series),
            batches,
            others: Vec::new(),
        };
        let mut groups: Vec<Group> = self.groups.into_iter().map(group).collect();
        groups.extend(self.strange);
        Found {
            node,
            level,
            writer,
            groups,
        }
    }
}

impl Group {
    /// The series numbers.
    pub fn series(&self) -> impl Iterator<Item = u32> {
        self.series.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Whether the batch of this number is there.
    pub fn holds(&self, number: u64) -> bool {
        let at = self.batches.partition_point(|(_, last)| *last < number);
        self.batches.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// How many samples each series has.
    pub fn samples_each(&self) -> u64 {
        let batches = self.batches.iter().map(|(first, last)| last - first + 1);
        batches.sum::<u64>() + self.others.len() as u64
    }
}

/// Sorted numbers as ranges.
fn ranges<N: Copy + Ord + Into<u64>>(numbers: &mut [N]) -> Vec<(N, N)> {
    if !numbers.is_sorted() {
        numbers.sort_unstable();
    }
    let mut ranges: Vec<(N, N)> = Vec::new();
    for number in numbers.iter() {
        match ranges.last_mut() {
            Some((_, last)) if (*number).into() <= (*last).into() + 1 => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Outcomes, Recorder, Stage};
    use crate::values::Batch;

    fn batch(number: u64, timestamp_ms: i64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 3,
            timestamp_ms,
        }
    }

    #[test]
    fn nothing_is_lost_by_sorting() {
        let recorder = Recorder::default();
        for number in 0..10 {
            let (batch, receipts, counts, error) = (batch(number, number as i64), vec![], None, None);
            recorder.record(
                Stage::Invoke,
                Action::Write {
                    batch,
                    receipts,
                    counts,
                    error,
                },
            );
        }
        let outcomes = Outcomes::of(&recorder.operations());
        let mut sorter = Sorter::new(outcomes.writer(1).unwrap());
        let sample = |number: u64, series| {
            (
                number as i64,
                batch(number, number as i64).bits_of(series).unwrap(),
            )
        };
        for series in [0, 1] {
            let mut points: Vec<_> = [9, 2, 3, 4].map(|number| sample(number, series)).to_vec();
            sorter.add(series, &mut points);
        }
        // One twice, one altered, one of nobody.
        let mut points = vec![sample(1, 2), sample(1, 2), (2, 77), (100, 78), sample(4, 2)];
        sorter.add(2, &mut points);
        let found = sorter.finish(3, None, 1);
        let expected = [
            Group {
                series: vec![(0, 1)],
                batches: vec![(2, 4), (9, 9)],
                others: Vec::new(),
            },
            Group {
                series: vec![(2, 2)],
                batches: vec![(1, 1), (4, 4)],
                others: vec![sample(1, 2), (2, 77), (100, 78)],
            },
        ];
        assert_eq!(found.groups, expected);
        let holds: Vec<u64> = (0..12).filter(|number| found.groups[0].holds(*number)).collect();
        assert_eq!(holds, [2, 3, 4, 9]);
        assert_eq!(
            (found.groups[0].samples_each(), found.groups[1].samples_each()),
            (4, 5)
        );
    }
}
