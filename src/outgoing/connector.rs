//! How connections are opened: names are looked up, addresses checked, TLS shaken hands, all within one limit of time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::PlainHttp;
use crate::deadline::timeout;
use crate::tls::Roots;

/// Opens connections.
#[derive(Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<HttpConnector<Resolver>>,
    time: Duration,
}

impl Connector {
    /// `plain` limits the addresses of servers without TLS.
    pub(super) fn new(plain: Option<PlainHttp>, roots: &Roots, time: Duration) -> Result<Self, String> {
        let mut http = HttpConnector::new_with_resolver(Resolver { inner: GaiResolver::new(), plain });
        http.enforce_http(false);
        http.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new();
        let https = match plain {
            None => builder.with_tls_config(roots.client_config()?).https_only(),
            // Nothing is read from the system.
            Some(_) => builder.with_tls_config(Roots::nobody().client_config()?).https_or_http(),
        };
        Ok(Self { inner: https.enable_http1().wrap_connector(http), time })
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Boxed<Self::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connect, time) = (self.inner.call(uri), self.time);
        // A request that gives up may leave its connection to be opened for the next one.
        Box::pin(async move {
            timeout(time, connect).await.unwrap_or_else(|_| Err(format!("not connected within {time:?}").into()))
        })
    }
}

/// Looks up names, and leaves out addresses to which plain HTTP is not allowed.
#[derive(Clone)]
struct Resolver {
    inner: GaiResolver,
    plain: Option<PlainHttp>,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Boxed<Self::Response, io::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (addresses, plain) = (self.inner.call(name), self.plain);
        Box::pin(async move {
            let addresses: Vec<_> = addresses.await?.collect();
            let Some(plain) = plain else { return Ok(addresses.into_iter()) };
            let near: Vec<_> = addresses.into_iter().filter(|address| plain.allows(address.ip())).collect();
            match near.is_empty() {
                true => Err(io::Error::other(format!("http:// is allowed to {} only; use https://", plain.name()))),
                false => Ok(near.into_iter()),
            }
        })
    }
}
