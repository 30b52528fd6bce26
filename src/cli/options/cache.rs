//! `--cache-dir`, `--cache-size`, `--offline`: where bytes are remembered, and how many.

use std::path::PathBuf;

use clap::Args;

/// The flags of verbs that read through the cache.
#[derive(Args, Clone)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheOptions {
    /// keep fetched bytes here [default: ~/.cache/artifs]
    #[arg(long, env = "ARTIFS_CACHE", hide_env = true, value_name = "dir")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// keep at most so many bytes, e.g. 20GiB [default: a share of the disk]
    #[arg(long, value_name = "size", value_parser = bytes)]
    pub(crate) cache_size: Option<u64>,
    /// ask no registry: what is in the cache, or an error
    #[arg(long)]
    pub(crate) offline: bool,
}

/// `4096`, `512M`, `20GiB`. All units are powers of 1024, as disks are filled.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let power = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err("expecting a number of bytes with an optional K, M, G or T".into()),
    };
    let number: f64 = number.parse().map_err(|_| "expecting a number of bytes".to_owned())?;
    let bytes = number * 1024_f64.powi(power);
    if bytes < 2_f64.powi(63) { Ok(bytes as u64) } else { Err("value out of range".into()) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("1.5M", 1_572_864),
            ("2GiB", 2 << 30),
            ("1 TB", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "x", "-1", "1.2.3", "1PB", "99999999T"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
