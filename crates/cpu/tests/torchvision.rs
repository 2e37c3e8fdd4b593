//! Every architecture of the zoo against torchvision.

use engraft_cpu::CpuEngine;

engraft_engine::test_networks!(CpuEngine::new(2));
