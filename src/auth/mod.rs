//! Who a request comes from.

pub mod dev_login;
