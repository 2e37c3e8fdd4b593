//! The suite that every engine passes.

use engraft_cpu::CpuEngine;

engraft_engine::test_running!(CpuEngine::new(2));
engraft_engine::test_training!(CpuEngine::new(2));
