//! How fast socketserver is: what the two programs of this package share. No interface for anybody else.

#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "only the programs of this package call any of it"
)]

pub mod compare;
pub mod interrupt;
pub mod limits;
pub mod load;
mod measure;
mod plot;
mod process;
mod procfs;
mod report;
mod results;
pub mod servers;
mod stats;
mod targets;
pub mod workloads;
