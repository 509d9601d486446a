//! Administration of what is stored: deletion of series.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_query::parse_selector;
use quorate_storage::Deletion;

use crate::api::{AdminApi, ApiError, Caller, DeleteParams};
use crate::cluster::CurrentView;
use crate::write::ShardCommands;

/// Carries out administrative requests of every frontend.
pub struct Admin {
    enabled: bool,
    view: Arc<CurrentView>,
    commands: Arc<ShardCommands>,
}

impl Admin {
    /// `enabled` is `enable_admin_api`.
    pub fn new(enabled: bool, view: Arc<CurrentView>, commands: Arc<ShardCommands>) -> Admin {
        Admin {
            enabled,
            view,
            commands,
        }
    }

    async fn delete(&self, caller: Caller, params: DeleteParams) -> Result<(), ApiError> {
        self.check()?;
        let bad = |what: String| Err(ApiError::new(ErrorCode::BadData, what));
        if params.matches.is_empty() {
            return bad("no match[] parameter provided".into());
        }
        if params.end_ms < params.start_ms {
            return bad("invalid parameter \"end\": end timestamp must not be before start timestamp".into());
        }
        let mut matcher_sets = Vec::with_capacity(params.matches.len());
        for selector in &params.matches {
            match parse_selector(selector) {
                Ok(matchers) => matcher_sets.push(matchers),
                Err(e) => return bad(format!("invalid parameter \"match[]\": {e}")),
            }
        }
        let view = self
            .view
            .get()
            .ok_or_else(|| ApiError::new(ErrorCode::Starting, "the cluster is still forming; retry"))?;
        let deletion = Deletion {
            tenant: caller.tenant.to_string(),
            matcher_sets,
            start_ms: params.start_ms,
            end_ms: params.end_ms,
        };
        tracing::info!(tenant = %caller.tenant, matches = ?params.matches, start_ms = params.start_ms,
            end_ms = params.end_ms, "deleting series");
        self.commands
            .delete(view.shards(), &deletion, caller.deadline)
            .await
    }
}

impl AdminApi for Admin {
    fn check(&self) -> Result<(), ApiError> {
        match self.enabled {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::Disabled,
                "admin APIs disabled: set enable_admin_api on this node to allow deletion",
            )),
        }
    }

    fn delete_series(&self, caller: Caller, params: DeleteParams) -> BoxFuture<'_, Result<(), ApiError>> {
        self.delete(caller, params).boxed()
    }
}
