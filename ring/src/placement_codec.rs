//! The durable form of a placement; see `docs/FORMATS.md`, section "Ring table".

use std::collections::BTreeMap;

use crate::frame::Format;
use crate::{MAX_REPLICAS, MAX_SHARDS, Placement, RingError};

const FORMAT: Format = Format {
    what: "placement",
    magic: *b"QPLC",
    version: 1,
};

impl Placement {
    /// The placement as durable bytes.
    ///
    /// # Errors
    /// Refuses a placement that was not made by [`place`](crate::place) or
    /// [`rebalance`](Placement::rebalance) and that breaks their rules: without shards or with too many, with
    /// shard 0, with a shard that has too few or too many replicas, other shards' number of them, or one node
    /// twice.
    pub fn encode(&self) -> Result<Vec<u8>, RingError> {
        let replicas = self.check()?;
        let mut bytes = FORMAT.begin(16 + self.assignments.len() * (4 + replicas * 8));
        bytes.push(replicas as u8);
        bytes.extend_from_slice(&(self.assignments.len() as u32).to_le_bytes());
        for (shard, nodes) in &self.assignments {
            bytes.extend_from_slice(&shard.to_le_bytes());
            nodes
                .iter()
                .for_each(|node| bytes.extend_from_slice(&node.to_le_bytes()));
        }
        Ok(FORMAT.seal(bytes))
    }

    /// Reads what [`Placement::encode`] wrote.
    ///
    /// # Errors
    /// [`RingError::UnsupportedVersion`], or [`RingError::Corrupt`] for any bytes that aren't a placement with
    /// ascending shards that all have the same number of replicas, on distinct nodes.
    pub fn decode(bytes: &[u8]) -> Result<Placement, RingError> {
        let mut reader = FORMAT.open(bytes)?;
        let replicas = usize::from(reader.u8()?);
        let count = reader.count("shards", MAX_SHARDS)?;
        let mut assignments = BTreeMap::new();
        for _ in 0..count {
            let at = reader.position();
            let shard = reader.u32()?;
            if assignments
                .last_key_value()
                .is_some_and(|(last, _)| *last >= shard)
            {
                return Err(reader.corrupt_at(at, format!("shard {shard} is out of order")));
            }
            // At most 255 replicas: a count that isn't valid is found by the check below.
            let nodes = (0..replicas)
                .map(|_| reader.u64())
                .collect::<Result<Vec<u64>, _>>()?;
            assignments.insert(shard, nodes);
        }
        reader.finish()?;
        let placement = Placement { assignments };
        placement
            .check()
            .map_err(|broken| reader.corrupt_at(0, broken.to_string()))?;
        Ok(placement)
    }

    /// The number of replicas of every shard, if the placement is in order.
    fn check(&self) -> Result<usize, RingError> {
        let Some((first, nodes)) = self.assignments.first_key_value() else {
            return Err(RingError::NoShards);
        };
        if *first == 0 {
            return Err(RingError::ReservedShard);
        }
        if self.assignments.len() > MAX_SHARDS {
            return Err(RingError::TooManyShards {
                count: self.assignments.len(),
            });
        }
        let replicas = nodes.len();
        if !(1..=MAX_REPLICAS).contains(&replicas) {
            return Err(RingError::ReplicasOutOfRange { replicas });
        }
        for (&shard, nodes) in &self.assignments {
            if nodes.len() != replicas {
                return Err(RingError::UnevenReplicas {
                    shard,
                    found: nodes.len(),
                    expected: replicas,
                });
            }
            for (index, node) in nodes.iter().enumerate() {
                if nodes[..index].contains(node) {
                    return Err(RingError::DuplicateReplica { shard, node: *node });
                }
            }
        }
        Ok(replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(of: &[(u32, &[u64])]) -> Placement {
        Placement {
            assignments: of.iter().map(|(shard, nodes)| (*shard, nodes.to_vec())).collect(),
        }
    }

    #[test]
    fn a_broken_placement_is_not_encoded() {
        let refused = |of: &[(u32, &[u64])]| placement(of).encode().unwrap_err();
        assert_eq!(refused(&[]), RingError::NoShards);
        assert_eq!(refused(&[(0, &[1])]), RingError::ReservedShard);
        assert_eq!(
            refused(&[(1, &[])]),
            RingError::ReplicasOutOfRange { replicas: 0 }
        );
        assert_eq!(
            refused(&[(1, &[5, 6, 5])]),
            RingError::DuplicateReplica { shard: 1, node: 5 }
        );
        let uneven = RingError::UnevenReplicas {
            shard: 2,
            found: 1,
            expected: 2,
        };
        assert_eq!(refused(&[(1, &[5, 6]), (2, &[5])]), uneven);
    }
}
