//! Which system calls are left, as a filter of seccomp: all that the standard library, tokio and the allocator use, and
//! no other. What is not left fails with EPERM, and the process goes on.
//!
//! No new process comes to be (`execve`, `fork`, `clone` without a thread's flag), no memory is made both writable and
//! executable, no socket is of another family than IP, Unix and netlink.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is,
    SeccompCondition as Condition, SeccompFilter, SeccompRule,
};

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Of every architecture.
#[rustfmt::skip]
const ANYWHERE: &[c_long] = {
    use libc::*;
    &[
        // Bytes and descriptors.
        SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_close,
        SYS_close_range, SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_fcntl, SYS_dup, SYS_dup3, SYS_pipe2,
        SYS_splice, SYS_tee, SYS_sendfile, SYS_copy_file_range, SYS_eventfd2, SYS_epoll_create1, SYS_epoll_ctl,
        SYS_epoll_pwait, SYS_epoll_pwait2, SYS_ppoll, SYS_pselect6, SYS_timerfd_create, SYS_timerfd_settime,
        // Files; Landlock, the user and the mounts say which.
        SYS_openat, SYS_openat2, SYS_newfstatat, SYS_fstat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_readlinkat,
        SYS_faccessat, SYS_faccessat2, SYS_getdents64, SYS_mkdirat, SYS_unlinkat, SYS_renameat, SYS_renameat2,
        SYS_linkat, SYS_fchmod, SYS_fchmodat, SYS_getcwd, SYS_umask, SYS_flock, SYS_fadvise64,
        SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
        // Sockets.
        SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_getsockname, SYS_getpeername,
        SYS_setsockopt, SYS_getsockopt, SYS_shutdown, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg,
        SYS_sendmmsg, SYS_recvmmsg,
        // Memory.
        SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_membarrier,
        // Threads. clone3 is answered as by a kernel that does not have it (see `without_clone3`).
        SYS_clone3, SYS_set_robust_list, SYS_rseq, SYS_futex, SYS_set_tid_address, SYS_sched_yield,
        SYS_sched_getaffinity, SYS_getcpu, SYS_exit, SYS_exit_group, SYS_gettid, SYS_getpriority, SYS_setpriority,
        // Signals, of the process to itself.
        SYS_sigaltstack, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall,
        // Time, chance, and what the process is.
        SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_getrandom,
        SYS_getpid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_prlimit64, SYS_getrusage,
        SYS_sysinfo, SYS_uname,
    ]
};

/// What newer architectures have in one form only.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const HERE: &[c_long] = {
    use libc::*;
    &[
        SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_mkdir, SYS_rmdir, SYS_unlink,
        SYS_rename, SYS_chmod, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_pipe,
        SYS_dup2, SYS_inotify_init, SYS_getrlimit, SYS_time, SYS_arch_prctl,
    ]
};
#[cfg(not(target_arch = "x86_64"))]
const HERE: &[c_long] = &[];

const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// What is asked of sockets and terminals; a terminal's input cannot be forged (`TIOCSTI`).
const CONTROLS: [u64; 6] =
    [libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TCGETS, libc::TIOCGWINSZ, libc::TIOCOUTQ];
/// A thread's name, and that of a piece of memory (`PR_SET_VMA`).
const OPTIONS: [u64; 3] = [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, 0x5356_4d41];

/// Installs the filter for all threads, for good.
pub(super) fn enter() -> Result<(), seccompiler::Error> {
    // The kernel asks both, and what either refuses is refused.
    for filter in [without_clone3()?, filter()?] {
        seccompiler::apply_filter_all_threads(&filter)?;
    }
    Ok(())
}

/// `clone3` has its flags in memory, where no filter looks; libraries that are told it is not there use `clone`.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    compiled(Rules::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, absent)
}

fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules: Rules = ANYWHERE.iter().chain(HERE).map(|call| (*call, Vec::new())).collect();
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![only(0, Is::MaskedEq(thread), thread)?]);
    let families = FAMILIES.map(|family| family as u64);
    rules.insert(libc::SYS_socket, one_of(0, &families)?);
    rules.insert(libc::SYS_socketpair, one_of(0, &families[..1])?);
    rules.insert(libc::SYS_ioctl, one_of(1, &CONTROLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, &OPTIONS)?);
    rules.insert(libc::SYS_tgkill, one_of(0, &[u64::from(std::process::id())])?);
    let (write, execute) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let (not_executable, not_writable) =
        (only(2, Is::MaskedEq(execute), 0)?, only(2, Is::MaskedEq(write), 0)?);
    rules.insert(libc::SYS_mprotect, vec![not_executable.clone()]);
    rules.insert(libc::SYS_mmap, vec![not_executable, not_writable]);
    compiled(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn compiled(rules: Rules, others: SeccompAction, these: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, others, these, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// An argument that is one of these.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| only(argument, Is::Eq, *value)).collect()
}

fn only(argument: u8, is: Is, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![Condition::new(argument, Length::Dword, is, value)?])
}
