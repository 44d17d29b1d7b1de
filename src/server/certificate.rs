//! Looks at the files of the TLS certificate while the server runs.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::ServerTls;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After SIGHUP, they are looked at a second time after this long.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Looks at the files of the certificate, and again a moment later: what two looks find is used.
pub(super) async fn look_twice(tls: Arc<ServerTls>) {
    for _ in 0..2 {
        look(&tls).await;
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// Looks at the files of the certificate. Files may be on a disk that is slow: nothing else waits for it.
async fn look(tls: &Arc<ServerTls>) {
    let tls = Arc::clone(tls);
    // It fails only if the process ends.
    let _ = tokio::task::spawn_blocking(move || tls.look()).await;
}

/// Looks at the files of the certificate for as long as the server runs.
pub(super) async fn watch(tls: Option<Arc<ServerTls>>) {
    let Some(tls) = tls else { return pending().await };
    loop {
        look(&tls).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
