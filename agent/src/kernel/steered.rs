//! The servers that steered connections asked for, as the gateway finds them.

use agent_common::layout::Origin;
use aya::maps::{HashMap, Map, MapData};

use super::{KernelError, tables};

pub(super) type Table = HashMap<MapData, u64, Origin>;

/// The steered connections of one agent whose origin nobody has asked for yet.
#[derive(Debug)]
pub struct Steered(pub(super) Table);

impl Steered {
    pub(super) fn create() -> Result<Self, KernelError> {
        let map = tables::steered_map().map_err(|source| KernelError::Map {
            action: "create",
            map: "STEERED",
            source: source.into(),
        })?;
        MapData::from_fd(map)
            .and_then(Map::from_map_data)
            .and_then(Table::try_from)
            .map(Self)
            .map_err(KernelError::map("open", "STEERED"))
    }

    /// The server that the socket of this cookie (`SO_COOKIE`) asked for, which is forgotten
    /// with that; `None` where the kernel did not steer it, or had no room for it any more.
    pub fn take(&mut self, cookie: u64) -> Option<Origin> {
        let origin = self.0.get(&cookie, 0).ok()?;
        // It may have been pushed out in between.
        let _ = self.0.remove(&cookie);
        Some(origin)
    }
}
