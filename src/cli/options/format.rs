//! `--format` and `--template`: text, JSON or a Go template.

use clap::Args;

use crate::cli::display::{Shape, Template};
use crate::cli::failure::{Failure, Result};

/// The flags of verbs with a result to format.
#[derive(Args, Clone)]
pub(crate) struct Format {
    /// [Experimental] format output using a custom template:
    /// 'text': print in text; 'json': print in JSON; 'go-template=TEMPLATE': print using the Go template
    #[arg(long, value_name = "format", default_value = "text", hide_default_value = true)]
    format: String,
    /// [Experimental] template string used to format output
    #[arg(long, value_name = "template")]
    template: Option<String>,
}

impl Format {
    /// What was asked for, in ORAS's words when it cannot be.
    pub(crate) fn shape(&self) -> Result<Shape> {
        let (kind, inline) = match self.format.split_once('=') {
            Some((kind, template)) => (kind, Some(template)),
            None => (self.format.as_str(), None),
        };
        if self.template.is_some() && (kind != "go-template" || inline.is_some()) {
            return Err(Failure::new("--template must be used with --format go-template"));
        }
        match (kind, inline.or(self.template.as_deref())) {
            ("text", None) => Ok(Shape::Text),
            ("json", None) => Ok(Shape::Json),
            ("go-template", Some(template)) if !template.is_empty() => {
                Template::parse(template).map(Shape::Template).map_err(Failure::new)
            }
            ("go-template", _) => Err(Failure::new("\"go-template\" format specified but no template given")
                .help("use `--format go-template=TEMPLATE` to specify the template")),
            _ => Err(Failure::new(format!("invalid format type: {:?}", self.format))
                .help("supported types: json, go-template, text")),
        }
    }
}
