//! placeholder (being written)
#[derive(Debug, Clone)]
pub(crate) struct Template;
