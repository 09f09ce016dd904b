//! What tests of the chart and of the image files share: `helm` run on the chart, its objects as values, the files a pod would
//! see, and Kubernetes' own schemas. It must not assert anything: that is the tests' business.

mod chart;
mod files;
mod schemas;
mod yaml;

pub use chart::{Chart, KUBE_VERSION};
pub use files::{PLANTED, mounted};
pub use schemas::{Schemas, definitions_of_custom_kinds};
pub use yaml::{document, documents};

use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
