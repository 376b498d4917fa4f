/* PID 1: check what was unpacked, fetch the TPM and the event log, set up the network, close every door, start gate
 * and launcher, and power off when one of them ends. Contract: docs/spec/guest-abi.md. */
#include "init.h"

enum { GATE = 100, LISTING_CAPACITY = 8 << 20, LOG_CAPACITY = 4 << 20, RANDOM_BYTES = 32 };
static char buffer[LISTING_CAPACITY];
static struct config config;

_Noreturn void power_off(void)
{
    if (getpid() == 1)
        reboot(RB_POWER_OFF);
    _exit(1);
}

/* The kernel hands over no descriptors, or those of a console: none is kept. */
static void silence(void)
{
    MUST(!syscall(__NR_close_range, 0, ~0U, 0) && open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2);
}

static void check_tree(void)
{
    size_t size;
    unlink("/dev/console");  /* the kernel's built-in initramfs brings these two */
    rmdir("/root");
    unlink("/.extra/os-release");  /* and systemd-stub these two; PCR 9 has them */
    rmdir("/.extra");
    MUST(read_file("/.blindbuild.tree", buffer, sizeof buffer, &size) && tree_matches(buffer, size));
}

static void read_config(void)
{
    size_t size;
    MUST(read_file("/etc/blindbuild/init.conf", buffer, CONFIG_CAPACITY, &size)
         && parse_config(&config, buffer, size));
}

static int open_tpm(void)
{
    MUST(!mount("devtmpfs", "/aside", "devtmpfs", MS_NOSUID | MS_NOEXEC, NULL));
    int tpm = open("/aside/tpmrm0", O_RDWR | O_CLOEXEC);
    MUST(tpm >= 0 && !umount2("/aside", MNT_DETACH));
    return tpm;
}

/* The log in a sealed memory file: the gate can read it, and nobody can change it. */
static int copy_event_log(void)
{
    size_t size;
    int log = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(!mount("securityfs", "/aside", "securityfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    MUST(read_file("/aside/tpm0/binary_bios_measurements", buffer, LOG_CAPACITY, &size) && size > 0);
    MUST(!umount2("/aside", MNT_DETACH) && log >= 0 && write(log, buffer, size) == (ssize_t)size);
    MUST(!lseek(log, 0, SEEK_SET)
         && !fcntl(log, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    return log;
}

/* Mix the TPM's generator in, uncredited: it can add to the kernel's entropy, never take from it.
 * Source: TPM 2.0 Part 3, 16.1 TPM2_GetRandom. */
static void mix_tpm_random(int tpm)
{
    static const uint8_t command[] = {0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, RANDOM_BYTES};
    static const uint8_t header[] = {0x80, 1, 0, 0, 0, 12 + RANDOM_BYTES, 0, 0, 0, 0, 0, RANDOM_BYTES};
    uint8_t response[sizeof header + RANDOM_BYTES];
    MUST(write(tpm, command, sizeof command) == sizeof command);
    MUST(read(tpm, response, sizeof response) == sizeof response && !memcmp(response, header, sizeof header));
    int pool = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    MUST(pool >= 0 && write(pool, response + sizeof header, RANDOM_BYTES) == RANDOM_BYTES);
    close(pool);
    explicit_bzero(response, sizeof response);
}

static _Noreturn void run_gate(const int descriptors[4])
{
    static char *const arguments[] = {"/gate", NULL}, *const environment[] = {NULL};
    int high[4];
    install_filter(CHILD_FILTER);
    for (int i = 0; i < 4; i++)  /* first out of the way of their final numbers */
        MUST((high[i] = fcntl(descriptors[i], F_DUPFD_CLOEXEC, 16)) >= 0);
    for (int i = 0; i < 4; i++)
        MUST(dup2(high[i], 3 + i) == 3 + i);
    MUST(!syscall(__NR_close_range, 7, ~0U, 0) && !chroot("/gate") && !chdir("/"));
    become(GATE);
    keep_capabilities(0);
    execve("/gate", arguments, environment);
    _exit(127);
}

static _Noreturn void watch(pid_t gate, pid_t launcher)
{
    MUST(!syscall(__NR_close_range, 0, ~0U, 0));
    keep_capabilities(1U << CAP_SYS_BOOT);
    install_filter(INIT_FILTER);
    for (;;) {
        pid_t ended = waitpid(-1, NULL, 0);
        MUST(ended > 0 && ended != gate && ended != launcher);
    }
}

int main(void)
{
    int pair[2];
    silence();
    MUST(getpid() == 1 && !reboot(RB_DISABLE_CAD) && !prctl(PR_SET_DUMPABLE, 0)
         && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    limit(RLIMIT_CORE, 0);
    check_tree();
    read_config();
    load_filters("/filters");
    empty_bounding_set();
    int tpm = open_tpm(), log = copy_event_log();
    mix_tpm_random(tpm);
    set_up_network(&config);
    int listener = open_listener((uint16_t)config.port);
    MUST(!mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL));
    install_filter(SOCKET_RULE);
    MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    pid_t gate = fork();
    if (gate == 0)
        run_gate((int[4]){listener, tpm, log, pair[0]});
    pid_t launcher = gate > 0 ? fork() : -1;
    if (launcher == 0) {
        install_filter(CHILD_FILTER);
        MUST(dup2(pair[1], 3) == 3 && !syscall(__NR_close_range, 4, ~0U, 0));
        run_launcher(&config, "/workload", 3);
    }
    MUST(gate > 0 && launcher > 0);
    watch(gate, launcher);
}
