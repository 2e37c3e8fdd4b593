//! The suite that every engine passes.

use engraft_burn::BurnEngine;
use engraft_cpu::CpuEngine;

engraft_engine::test_engine!(CpuEngine::new(2, BurnEngine::cpu()));
