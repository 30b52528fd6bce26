//! What the tests share: registries that run, stores that misbehave, and artifacts to put in them.
//!
//! ```
//! use support::registry::{Fault, On, Registry};
//! use support::seed::{Artifact, Folder};
//!
//! let registry = Registry::start();                       // in this process, on 127.0.0.1:<free port>
//! let pushed = Artifact::new()
//!     .file("hello.txt", "hello")
//!     .file("docs/big.bin", Big::new(2 << 30, 7))         // 2 GiB nobody holds in memory
//!     .folder("src", Folder::new().file("main.c", 0o644, "int main;").link("m.c", "main.c"))
//!     .tag("v1")
//!     .push(&registry, "team/app");                       // or to a Server, a Layout, a Memory
//! let reference = format!("{}/team/app:v1", registry.host());
//!
//! // Now it misbehaves: the second blob request is cut after 100 bytes.
//! registry.fault(On::blobs().after(1).times(1), Fault::Cut { after: 100, end: End::Reset });
//! // … read through artifs …
//! assert_eq!(registry.blob_bytes(), 5);                   // what crossed the network
//! for request in registry.requests() { println!("{request}"); }
//! ```
//!
//! Every request is recorded. Everything is stopped and removed when its handle is dropped.

pub mod content;
pub mod http;
pub mod registry;
pub mod seed;
pub mod seen;
pub mod server;
pub mod store;

pub use content::{Big, Content, noise};
