//! Load and measurement for benchmarks of whole servers: a deterministic scrape load over remote write, and
//! what it cost the processes that took it.

pub mod fleet;
pub mod load;
pub mod measure;
pub mod servers;
pub mod table;
