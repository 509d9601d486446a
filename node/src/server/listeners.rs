//! Every port is bound before anything else happens, so that a port that is taken is found at once and
//! not after minutes of replay.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;

use crate::config::{Config, flag};

/// The bound ports.
#[derive(Debug)]
pub struct Listeners {
    /// For HTTP.
    pub http: TcpListener,
    /// For gRPC.
    pub grpc: TcpListener,
    /// Where `http` listens.
    pub http_address: SocketAddr,
    /// Where `grpc` listens.
    pub grpc_address: SocketAddr,
}

impl Listeners {
    /// Binds all ports.
    ///
    /// # Errors
    /// Names every address that can't be bound, with the key that configures it.
    pub async fn bind(config: &Config) -> anyhow::Result<Listeners> {
        let mut problems = Vec::new();
        let mut bound = Vec::new();
        for (key, address) in [
            ("http_listen", config.http_listen),
            ("grpc_listen", config.grpc_listen),
        ] {
            match TcpListener::bind(address).await {
                Ok(listener) => bound.push(listener),
                Err(error) => problems.push(format!(
                    "can't listen on {address} ({key}, {}): {error}",
                    flag(key)
                )),
            }
        }
        ensure!(problems.is_empty(), problems.join("\n"));
        let mut bound = bound.into_iter();
        let (http, grpc) = bound.next().zip(bound.next()).context("two ports were bound")?;
        let (http_address, grpc_address) = (http.local_addr()?, grpc.local_addr()?);
        Ok(Listeners {
            http,
            grpc,
            http_address,
            grpc_address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_taken_port_is_named() {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            http_listen: any,
            grpc_listen: any,
            ..Config::default()
        };
        let first = Listeners::bind(&config).await.unwrap();
        (config.http_listen, config.grpc_listen) = (first.http_address, first.grpc_address);
        let error = Listeners::bind(&config).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("{} (http_listen", first.http_address)),
            "{error}"
        );
        assert!(
            error.contains(&format!("{} (grpc_listen", first.grpc_address)),
            "{error}"
        );
    }
}
