//! Who wrote the manifest.

use minisign_verify::{PublicKey, Signature};
use serde_json::Value;

use super::ImportError;

/// The bytes that are signed: the manifest without its signature, canonical (RFC 8785).
pub(super) fn signed_bytes(mut manifest: Value) -> Result<Vec<u8>, ImportError> {
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("signature");
    }
    serde_json_canonicalizer::to_vec(&manifest)
        .map_err(|error| ImportError::new(format!("it has no canonical form: {error}")))
}

/// Whether the signature is of this key, over a hash (minisign 0.10's way). `key` is the key
/// itself or a whole public key file.
pub(super) fn verify(manifest: Value, signature: &str, key: &str) -> Result<(), ImportError> {
    let key = match key.trim().contains('\n') {
        true => PublicKey::decode(key.trim()),
        false => PublicKey::from_base64(key.trim()),
    };
    let key = key.map_err(|_| ImportError::new("the key that was given is none of minisign"))?;
    let signature = Signature::decode(signature)
        .map_err(|_| ImportError::new("its signature is none of minisign"))?;
    let bytes = signed_bytes(manifest)?;
    key.verify(&bytes, &signature, false).map_err(|_| {
        ImportError::new(
            "its signature is not by this key, or the manifest was changed after it was signed",
        )
    })
}
