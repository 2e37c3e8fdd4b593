// Shows a program a machine that has AVX2 and FMA and nothing beyond, on one that has AVX-512.
//
//     cc -O2 -shared -fPIC -Wl,-z,initfirst bench/avx2.c -o avx2.so
//     LD_PRELOAD=$PWD/avx2.so program
//
// Programs ask the processor itself what it has, by the instruction CPUID. Linux can make that instruction fault (arch_prctl(2),
// ARCH_SET_CPUID) where the processor or the hypervisor allows it. The handler of the fault executes it in the program's place
// and takes bits out of the answer. The setting is inherited by threads; execve resets it and starts this library anew.
//
// A program's own handler of SIGSEGV is kept here and called for all other faults, and no thread can block the signal.
//
// Linux on x86-64 only. A process in which CPUID cannot be made to fault ends with code 125 and a sentence.

#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012, NOT_AVAILABLE = 125 };

// Bits of leaf 7 (features) and leaf 0xd (states of registers), by their names in Intel's and AMD's manuals.
enum {
    // AVX512F, DQ, IFMA, PF, ER, CD, BW, VL
    LEAF_7_0_EBX = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31,
    // AVX512_VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    LEAF_7_0_ECX = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14,
    // AVX512_4VNNIW, 4FMAPS, VP2INTERSECT; AMX_BF16, AVX512_FP16, AMX_TILE, AMX_INT8
    LEAF_7_0_EDX = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25,
    // AVX_VNNI, AVX512_BF16, AMX_FP16, AVX_IFMA
    LEAF_7_1_EAX = 1u << 4 | 1u << 5 | 1u << 21 | 1u << 23,
    // AVX_VNNI_INT8, AVX_NE_CONVERT, AMX_COMPLEX, AVX_VNNI_INT16, AVX10, APX
    LEAF_7_1_EDX = 1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19 | 1u << 21,
    // opmask, ZMM_Hi256, Hi16_ZMM; XTILECFG, XTILEDATA; APX
    STATES = 1u << 5 | 1u << 6 | 1u << 7 | 1u << 17 | 1u << 18 | 1u << 19,
};

// The handler that the program wants, and the function that would have set it.
static struct sigaction programs;
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static void set_faulting(int faults) {
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, !faults);
}

static void limit(uint32_t leaf, uint32_t subleaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx) {
    int is_cleared = leaf == 0x1d || leaf == 0x1e  // AMX: tiles, multiplications
                     || leaf == 0x24               // AVX10
                     || (leaf == 0xd && 2 <= subleaf && subleaf < 32 && STATES >> subleaf & 1);
    if (is_cleared) {
        *eax = *ebx = *ecx = *edx = 0;
    } else if (leaf == 7 && subleaf == 0) {
        *ebx &= ~LEAF_7_0_EBX;
        *ecx &= ~LEAF_7_0_ECX;
        *edx &= ~LEAF_7_0_EDX;
    } else if (leaf == 7 && subleaf == 1) {
        *eax &= ~LEAF_7_1_EAX;
        *edx &= ~LEAF_7_1_EDX;
    } else if (leaf == 0xd && subleaf == 0) {
        // The sizes stay: they are what XSAVE writes, whatever a program is told.
        *eax &= ~STATES;
    }
}

static int is_cpuid(const siginfo_t *info, const greg_t *registers) {
    // A general-protection fault: so the instruction could be read.
    if (info->si_code != SI_KERNEL) return 0;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    return instruction[0] == 0x0f && instruction[1] == 0xa2;
}

static void pass_on(int signal_number, siginfo_t *info, void *context) {
    if (programs.sa_flags & SA_SIGINFO) {
        programs.sa_sigaction(signal_number, info, context);
    } else if (programs.sa_handler == SIG_DFL || programs.sa_handler == SIG_IGN) {
        struct sigaction deadly = {.sa_handler = SIG_DFL};
        real_sigaction(signal_number, &deadly, NULL);
        raise(signal_number);
    } else {
        programs.sa_handler(signal_number);
    }
}

static void handle(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (!is_cpuid(info, registers)) {
        pass_on(signal_number, info, context);
        return;
    }
    int error = errno;
    uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX];
    uint32_t eax, ebx, ecx, edx;
    set_faulting(0);
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    set_faulting(1);
    limit(leaf, subleaf, &eax, &ebx, &ecx, &edx);
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += 2;
    errno = error;
}

__attribute__((visibility("default"))) int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (!real_sigaction) *(void **)&real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV) return real_sigaction(number, new, old);
    struct sigaction before = programs;
    if (new) programs = *new;
    if (old) *old = before;
    return 0;
}

__attribute__((visibility("default"))) sighandler_t signal(int number, sighandler_t handler) {
    struct sigaction new = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    return sigaction(number, &new, &old) ? SIG_ERR : old.sa_handler;
}

// A fault while its signal is blocked ends the process, so it never is.
static const sigset_t *without_fault(int how, const sigset_t *set, sigset_t *copy) {
    if (!set || how == SIG_UNBLOCK) return set;
    *copy = *set;
    sigdelset(copy, SIGSEGV);
    return copy;
}

__attribute__((visibility("default"))) int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    static int (*real)(int, const sigset_t *, sigset_t *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_sigmask");
    sigset_t copy;
    return real(how, without_fault(how, set, &copy), old);
}

__attribute__((visibility("default"))) int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    static int (*real)(int, const sigset_t *, sigset_t *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "sigprocmask");
    sigset_t copy;
    return real(how, without_fault(how, set, &copy), old);
}

__attribute__((constructor)) static void start(void) {
    *(void **)&real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    real_sigaction(SIGSEGV, NULL, &programs);
    struct sigaction ours = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART};
    real_sigaction(SIGSEGV, &ours, NULL);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fprintf(stderr, "AVX-512 cannot be hidden: CPUID does not fault here (%s)\n", strerror(errno));
        _exit(NOT_AVAILABLE);
    }
}
