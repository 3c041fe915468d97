"""The part of llvmlite.binding that naru calls."""

llvm_version_info: tuple[int, int, int]

class ContextRef: ...

class ModuleRef:
    triple: str
    data_layout: str
    def verify(self) -> None: ...

class TargetData: ...

class TargetMachine:
    @property
    def target_data(self) -> TargetData: ...
    def emit_object(self, module: ModuleRef) -> bytes: ...
    def emit_assembly(self, module: ModuleRef) -> str: ...

class Target:
    @classmethod
    def from_triple(cls, triple: str) -> Target: ...
    def create_target_machine(
        self,
        cpu: str = "",
        features: str = "",
        opt: int = 2,
        reloc: str = "default",
        codemodel: str = "jitdefault",
        printmc: bool = False,
        jit: bool = False,
        abiname: str = "",
    ) -> TargetMachine: ...

class PipelineTuningOptions:
    speed_level: int
    loop_interleaving: bool
    loop_vectorization: bool
    slp_vectorization: bool
    loop_unrolling: bool
    inlining_threshold: int

class ModulePassManager:
    def run(self, IR: ModuleRef, pb: PassBuilder) -> None: ...

class PassBuilder:
    def getModulePassManager(self) -> ModulePassManager: ...

def initialize_all_targets() -> None: ...
def initialize_all_asmprinters() -> None: ...
def create_context() -> ContextRef: ...
def parse_assembly(llvmir: str, context: ContextRef | None = None) -> ModuleRef: ...
def create_pipeline_tuning_options(speed_level: int = 2) -> PipelineTuningOptions: ...
def create_pass_builder(tm: TargetMachine, pto: PipelineTuningOptions) -> PassBuilder: ...
