//! Waiting for conditions, with a deadline and the reason why it wasn't met.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Repeats `check` until it succeeds. The error names `what` and why the last look failed.
pub fn until<T>(what: impl Display, limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(timed_out(&what, limit, &error)),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// As [`until`], for asynchronous checks. A check that hangs ends at the deadline too.
pub async fn until_async<T>(
    what: impl Display,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut last = anyhow!("the first look took too long");
    loop {
        match tokio::time::timeout_at(deadline, check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => return Err(timed_out(&what, limit, &last)),
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(timed_out(&what, limit, &last));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn timed_out(what: &dyn Display, limit: Duration, last: &anyhow::Error) -> anyhow::Error {
    anyhow!("waited {limit:?} for: {what}; last: {last:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn succeeds_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        let seen = until("three looks", Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some(looks).ok_or_else(|| anyhow!("{looks}"))
        });
        assert_eq!(seen.unwrap(), 3);
    }

    #[test]
    fn a_deadline_says_what_was_missing() {
        let error = until::<()>("the sun", Duration::ZERO, || Err(anyhow!("it rains"))).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns for: the sun; last: it rains");
    }

    #[tokio::test]
    async fn a_hanging_check_ends() {
        let error = until_async::<()>("an answer", Duration::from_millis(50), async || {
            std::future::pending().await
        });
        assert!(error.await.unwrap_err().to_string().contains("took too long"));
    }
}
