//! Secrets: how they are read from files, and noticed when they change. No word of this file says what one holds.

use std::fmt;
use std::path::{Path, PathBuf};

use bounceflow_warehouse::Credentials;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use sha2::{Digest as _, Sha256};

/// A text that may be a secret: whatever is wrong with it, it is not repeated.
#[derive(Clone, Default)]
pub struct Text(pub String);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Text, E> {
                Err(E::custom("must be a text in quotes"))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Text, E> {
                Err(E::custom("must be a text in quotes"))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Text, E> {
                Err(E::custom("must be a text in quotes"))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Text, E> {
                Err(E::custom("must be a text in quotes"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// What a file holds. An error names the file where it is named by a path: somebody may have written the secret in its place.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| if file.is_absolute() { format!("{}: {e}", file.display()) } else { e.to_string() })
}

/// The same as a text, without the white space at its end.
pub fn read_text(file: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(file)?).map_err(|_| "holds bytes that are no text".to_owned())?;
    Ok(text.trim_end().to_owned())
}

/// Where what ClickHouse is shown comes from.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "documented in config::RawClickHouse")]
pub struct ClickHouseSecrets {
    pub password: String,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl ClickHouseSecrets {
    /// Reads all of them; every mistake with its field.
    pub fn read(&self) -> Result<Credentials, Vec<(&'static str, String)>> {
        let mut mistakes = Vec::new();
        let mut note = |field, read: Result<Vec<u8>, String>| read.map_err(|e| mistakes.push((field, e))).ok();
        let file = |file: &Option<PathBuf>| file.as_deref().map(read);
        let ca = file(&self.ca_file).map(|read| note("ca_file", read));
        let certificate = file(&self.certificate_file).map(|read| note("certificate_file", read));
        let key = file(&self.key_file).map(|read| note("key_file", read));
        let password = self.password_file.as_deref().map(read_text);
        let password = match password {
            None => self.password.clone(),
            Some(read) => read.map_err(|e| mistakes.push(("password_file", e))).unwrap_or_default(),
        };
        if self.password_file.is_some() && !self.password.is_empty() {
            mistakes.push(("password_file", "is beside `password`; name one of them".to_owned()));
        }
        match (&certificate, &key) {
            (Some(_), None) => mistakes.push(("certificate_file", "needs a key_file beside it".to_owned())),
            (None, Some(_)) => mistakes.push(("key_file", "needs a certificate_file beside it".to_owned())),
            _ => {}
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Credentials { password, ca: ca.flatten(), identity: certificate.flatten().zip(key.flatten()) })
    }

    /// The files it is read from.
    pub fn files(&self) -> Vec<PathBuf> {
        [&self.password_file, &self.ca_file, &self.certificate_file, &self.key_file].into_iter().flatten().cloned().collect()
    }
}

/// Files whose contents are looked at again and again. Kubernetes swaps a link and leaves old times, so contents are compared.
pub struct Watched(Vec<(PathBuf, Option<[u8; 32]>)>);

impl Watched {
    /// As they are now.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (digest(&file), file)).map(|(seen, file)| (file, seen)).collect())
    }

    /// Those that hold something else than at the last look. One that is not there, or empty, is being written: it is looked at again.
    pub fn changed(&mut self) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for (file, seen) in &mut self.0 {
            let found = digest(file);
            if found.is_some() && found != *seen {
                *seen = found;
                changed.push(file.clone());
            }
        }
        changed
    }
}

fn digest(file: &Path) -> Option<[u8; 32]> {
    let bytes = std::fs::read(file).ok().filter(|bytes| !bytes.is_empty())?;
    Some(Sha256::digest(bytes).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn contents_are_compared_not_times() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for (name, text) in [("one", "1"), ("two", "2")] {
            std::fs::write(place(name), text).unwrap();
        }
        // As Kubernetes mounts a Secret: what is named is a link, and an update swaps it.
        std::os::unix::fs::symlink(place("one"), place("secret")).unwrap();
        let mut watched = Watched::new(vec![place("secret"), place("later")]);
        assert_eq!(watched.changed(), Vec::<PathBuf>::new());
        std::fs::write(place("one"), "1").unwrap();
        assert_eq!(watched.changed(), Vec::<PathBuf>::new());
        std::os::unix::fs::symlink(place("two"), place("next")).unwrap();
        std::fs::rename(place("next"), place("secret")).unwrap();
        assert_eq!(watched.changed(), [place("secret")]);
        // Emptied while it is written, and gone for a moment.
        std::fs::write(place("two"), "").unwrap();
        assert_eq!(watched.changed(), Vec::<PathBuf>::new());
        std::fs::remove_file(place("two")).unwrap();
        assert_eq!(watched.changed(), Vec::<PathBuf>::new());
        std::fs::write(place("two"), "3").unwrap();
        std::fs::write(place("later"), "4").unwrap();
        assert_eq!(watched.changed(), [place("secret"), place("later")]);
        assert_eq!(watched.changed(), Vec::<PathBuf>::new());
    }
}
