//! Gives every shard so many nodes, within what the nodes and zones may take.
//!
//! A shard takes a node at most once and at most `zone_limit` nodes of one zone; a node takes as many shards as
//! its capacity says. Taking what fits can end in a corner where the last shard finds only nodes that it has
//! already. The way out is an augmenting path, as in a maximum flow: another shard hands its node over and
//! takes a different one. The graph is shard → (shard, zone) → node; by the max-flow theorem, if any complete
//! assignment exists then such paths lead to one, from wherever the assignment stands.

use std::collections::VecDeque;

/// What shards may take.
pub(crate) struct Rules {
    /// Number of shards.
    pub(crate) shards: usize,
    /// Nodes that every shard is to get.
    pub(crate) per_shard: usize,
    /// Zone of each node.
    pub(crate) zone_of: Vec<usize>,
    /// Number of zones.
    pub(crate) zones: usize,
    /// Most nodes of one zone that one shard may get.
    pub(crate) zone_limit: usize,
    /// Most shards each node may take.
    pub(crate) capacity: Vec<usize>,
}

/// Which shard has which nodes.
pub(crate) struct Assignment {
    rules: Rules,
    /// By shard and node: may they be joined.
    allowed: Vec<bool>,
    /// By shard and node: are they joined.
    joined: Vec<bool>,
    /// By shard and zone: nodes of that zone that the shard has.
    in_zone: Vec<usize>,
    /// By shard: nodes that it has.
    taken: Vec<usize>,
    /// By node: shards that it has.
    load: Vec<usize>,
}

/// A place in the graph.
#[derive(Clone, Copy)]
enum Vertex {
    Shard(usize),
    ShardZone(usize, usize),
    Node(usize),
}

impl Assignment {
    /// Nothing assigned yet; `allowed` says which shard (first) may have which node (second).
    pub(crate) fn new(rules: Rules, allowed: impl Fn(usize, usize) -> bool) -> Assignment {
        let nodes = rules.zone_of.len();
        let allowed = (0..rules.shards * nodes)
            .map(|pair| allowed(pair / nodes, pair % nodes))
            .collect::<Vec<_>>();
        Assignment {
            joined: vec![false; allowed.len()],
            allowed,
            in_zone: vec![0; rules.shards * rules.zones],
            taken: vec![0; rules.shards],
            load: vec![0; nodes],
            rules,
        }
    }

    /// Joins a shard and a node if all limits allow it.
    pub(crate) fn join(&mut self, shard: usize, node: usize) -> bool {
        let fits = !self.is_complete(shard)
            && self.can_add(shard, node)
            && self.in_zone[self.zone_index(shard, self.rules.zone_of[node])] < self.rules.zone_limit
            && self.load[node] < self.rules.capacity[node];
        if fits {
            self.set(shard, node, true);
        }
        fits
    }

    /// Gives every shard what it lacks; afterwards [`Assignment::is_complete`] tells which ones got it.
    pub(crate) fn complete(&mut self) {
        for shard in 0..self.rules.shards {
            while !self.is_complete(shard) && self.augment(shard) {}
        }
    }

    /// Whether the shard has as many nodes as it is to get.
    pub(crate) fn is_complete(&self, shard: usize) -> bool {
        self.taken[shard] == self.rules.per_shard
    }

    /// Sets what the nodes may take; it must not be less than what they have.
    pub(crate) fn set_capacity(&mut self, capacity: Vec<usize>) {
        self.rules.capacity = capacity;
    }

    /// Nodes of a shard, ascending.
    pub(crate) fn nodes_of(&self, shard: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes()).filter(move |&node| self.joined[shard * self.nodes() + node])
    }

    /// Shards of each node.
    pub(crate) fn load(&self) -> &[usize] {
        &self.load
    }

    /// Finds a shortest path from the shard to a node with room, and shifts nodes along it, which leaves the
    /// shard with one node more and every other shard with as many as before.
    fn augment(&mut self, shard: usize) -> bool {
        let mut came_from: Vec<Option<Vertex>> = vec![None; self.vertices()];
        let start = Vertex::Shard(shard);
        came_from[self.index(start)] = Some(start);
        let mut queue = VecDeque::from([start]);
        let mut next = Vec::new();
        while let Some(vertex) = queue.pop_front() {
            if let Vertex::Node(node) = vertex
                && self.load[node] < self.rules.capacity[node]
            {
                self.shift(vertex, &came_from);
                return true;
            }
            next.clear();
            self.push_neighbours(vertex, &mut next);
            for &neighbour in &next {
                let index = self.index(neighbour);
                if came_from[index].is_none() {
                    came_from[index] = Some(vertex);
                    queue.push_back(neighbour);
                }
            }
        }
        false
    }

    /// Where one unit of flow can go from here: forward over edges with room, backward over used ones.
    fn push_neighbours(&self, vertex: Vertex, out: &mut Vec<Vertex>) {
        match vertex {
            Vertex::Shard(shard) => {
                let room = |&zone: &usize| self.in_zone[self.zone_index(shard, zone)] < self.rules.zone_limit;
                out.extend(
                    (0..self.rules.zones)
                        .filter(room)
                        .map(|zone| Vertex::ShardZone(shard, zone)),
                );
            }
            Vertex::ShardZone(shard, zone) => {
                let open = |&node: &usize| self.rules.zone_of[node] == zone && self.can_add(shard, node);
                out.extend((0..self.nodes()).filter(open).map(Vertex::Node));
                if self.in_zone[self.zone_index(shard, zone)] > 0 {
                    out.push(Vertex::Shard(shard));
                }
            }
            Vertex::Node(node) => {
                let zone = self.rules.zone_of[node];
                let holds = |&shard: &usize| self.joined[shard * self.nodes() + node];
                out.extend(
                    (0..self.rules.shards)
                        .filter(holds)
                        .map(|s| Vertex::ShardZone(s, zone)),
                );
            }
        }
    }

    fn shift(&mut self, end: Vertex, came_from: &[Option<Vertex>]) {
        let mut to = end;
        while let Some(from) = came_from[self.index(to)] {
            match (from, to) {
                (Vertex::ShardZone(shard, _), Vertex::Node(node)) => self.set(shard, node, true),
                (Vertex::Node(node), Vertex::ShardZone(shard, _)) => self.set(shard, node, false),
                _ => {}
            }
            if self.index(from) == self.index(to) {
                break;
            }
            to = from;
        }
    }

    fn set(&mut self, shard: usize, node: usize, join: bool) {
        let pair = shard * self.nodes() + node;
        let zone = self.zone_index(shard, self.rules.zone_of[node]);
        self.joined[pair] = join;
        for count in [
            &mut self.in_zone[zone],
            &mut self.taken[shard],
            &mut self.load[node],
        ] {
            *count = if join { *count + 1 } else { *count - 1 };
        }
    }

    fn can_add(&self, shard: usize, node: usize) -> bool {
        let pair = shard * self.nodes() + node;
        self.allowed[pair] && !self.joined[pair]
    }

    fn nodes(&self) -> usize {
        self.rules.zone_of.len()
    }

    fn zone_index(&self, shard: usize, zone: usize) -> usize {
        shard * self.rules.zones + zone
    }

    fn vertices(&self) -> usize {
        self.rules.shards * (1 + self.rules.zones) + self.nodes()
    }

    fn index(&self, vertex: Vertex) -> usize {
        match vertex {
            Vertex::Shard(shard) => shard,
            Vertex::ShardZone(shard, zone) => self.rules.shards + self.zone_index(shard, zone),
            Vertex::Node(node) => self.rules.shards * (1 + self.rules.zones) + node,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(
        shards: usize,
        per_shard: usize,
        zone_of: &[usize],
        zone_limit: usize,
        capacity: &[usize],
    ) -> Rules {
        let zones = zone_of.iter().max().unwrap() + 1;
        Rules {
            shards,
            per_shard,
            zone_of: zone_of.to_vec(),
            zones,
            zone_limit,
            capacity: capacity.to_vec(),
        }
    }

    #[test]
    fn a_corner_is_left_by_moving_another_shard() {
        // Shard 1 can only have node 0, which shard 0 took first.
        let mut assignment = Assignment::new(rules(2, 1, &[0, 0], 1, &[1, 1]), |shard, node| {
            shard == 0 || node == 0
        });
        assert!(assignment.join(0, 0));
        assert!(!assignment.join(1, 0), "node 0 is full");
        assignment.complete();
        assert_eq!(assignment.nodes_of(0).collect::<Vec<_>>(), [1]);
        assert_eq!(assignment.nodes_of(1).collect::<Vec<_>>(), [0]);
        assert_eq!(assignment.load(), [1, 1]);
    }

    #[test]
    fn a_path_may_swap_nodes_within_a_zone_and_between_zones() {
        // Zones {0, 1} and {2, 3}, one node of each for every shard; every node takes one of two shards.
        let mut assignment = Assignment::new(rules(2, 2, &[0, 0, 1, 1], 1, &[1, 1, 1, 1]), |_, _| true);
        assert!(assignment.join(0, 0));
        assert!(!assignment.join(0, 1), "the zone is used");
        assignment.complete();
        for shard in 0..2 {
            let zones: Vec<usize> = assignment.nodes_of(shard).map(|node| node / 2).collect();
            assert_eq!(zones, [0, 1]);
        }
        assert_eq!(assignment.load(), [1, 1, 1, 1]);
    }

    #[test]
    fn what_cannot_be_completed_says_so() {
        let mut assignment = Assignment::new(rules(2, 1, &[0], 1, &[1]), |_, _| true);
        assignment.complete();
        assert!(assignment.is_complete(0));
        assert!(!assignment.is_complete(1));
        assignment.set_capacity(vec![2]);
        assignment.complete();
        assert!(assignment.is_complete(1));
    }
}
