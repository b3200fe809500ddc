//! Layer 8: operations: the admin console.

pub mod console;
