//! The suite that every engine passes, on the CPU.

use engraft_burn::BurnEngine;

engraft_engine::test_engine!(BurnEngine::cpu());
