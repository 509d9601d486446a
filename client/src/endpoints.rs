//! The connections of a client and which of them is asked next.

use crate::balance::{BackoffOptions, Balancer, Pick, Policy};
use crate::error::ClientError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Uri};

/// HTTP/2 pings find a peer that stopped without closing its connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `host:port`.
    pub(crate) name: Arc<str>,
    pub(crate) channel: Channel,
}

#[derive(Debug)]
pub(crate) struct Endpoints {
    list: Vec<Endpoint>,
    /// Its targets are positions in `list`.
    balancer: Mutex<Balancer<usize>>,
    /// Zero of the balancer's clock.
    started: Instant,
}

impl Endpoints {
    pub(crate) fn new(
        endpoints: Vec<(String, f64)>,
        policy: Policy,
        backoff: BackoffOptions,
        connect_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let mut list: Vec<Endpoint> = Vec::new();
        let mut weights = Vec::new();
        for (given, weight) in endpoints {
            let endpoint = open_lazily(&given, connect_timeout)?;
            if list.iter().all(|known| known.name != endpoint.name) {
                list.push(endpoint);
                weights.push(weight);
            }
        }
        if list.is_empty() {
            return Err(ClientError::NoEndpoints);
        }
        let mut balancer = Balancer::new(policy, backoff);
        balancer.set_targets(weights.into_iter().enumerate());
        Ok(Self {
            list,
            balancer: Mutex::new(balancer),
            started: Instant::now(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.list.iter().map(|endpoint| &endpoint.name)
    }

    pub(crate) fn get(&self, pick: &Pick<usize>) -> &Endpoint {
        &self.list[pick.target]
    }

    /// The next endpoint, preferably one that is not in `tried`.
    pub(crate) fn pick(&self, tried: &[usize]) -> Pick<usize> {
        let now_ms = self.now_ms();
        let mut balancer = self.lock();
        let untried = balancer.pick_among(now_ms, |target| !tried.contains(target));
        untried
            .or_else(|| balancer.pick(now_ms))
            .expect("a client has at least one endpoint")
    }

    /// Tells the balancer how the attempt went.
    pub(crate) fn report(&self, pick: &Pick<usize>, failure: Option<&ClientError>) {
        match failure {
            Some(error) if error.blames_endpoint() => {
                let jitter = rand::random::<f64>();
                self.lock().failed(pick, self.now_ms(), jitter);
            }
            _ => self.lock().succeeded(pick),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Balancer<usize>> {
        // The balancer's state is valid after any panic: at worst a credit is missing.
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_lazily(given: &str, connect_timeout: Duration) -> Result<Endpoint, ClientError> {
    let invalid = |reason: &str| ClientError::InvalidEndpoint {
        endpoint: given.to_owned(),
        reason: reason.to_owned(),
    };
    if given.starts_with("https://") {
        return Err(invalid("TLS is not supported"));
    }
    let authority = given
        .strip_prefix("http://")
        .unwrap_or(given)
        .trim_end_matches('/');
    let uri: Uri = format!("http://{authority}")
        .parse()
        .map_err(|_| invalid("expected host:port"))?;
    if uri.port_u16().is_none() || uri.host().is_none_or(str::is_empty) || uri.path() != "/" {
        return Err(invalid("expected host:port"));
    }
    let channel = Channel::builder(uri)
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .connect_lazy();
    Ok(Endpoint {
        name: Arc::from(authority),
        channel,
    })
}
