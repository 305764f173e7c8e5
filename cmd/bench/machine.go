package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/bench/result"
)

// guestEnv is set in guests of vmexec, to the kernel that was asked for.
const guestEnv = "UBLK_REMAP_GUEST"

func machine(ctx context.Context) (result.Machine, error) {
	m := result.Machine{Guest: os.Getenv(guestEnv), CPUs: runtime.NumCPU(), Go: runtime.Version()}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.Memory = int64(info.Totalram) * int64(info.Unit)
	out, err := exec.CommandContext(ctx, "fio", "--version").Output()
	if err != nil {
		return m, fmt.Errorf("fio --version: %w", err)
	}
	m.Fio = strings.TrimSpace(string(out))
	m.CPU = localCPU()
	return m, nil
}

// localCPU is this machine's processor.
func localCPU() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return unknownCPU
	}
	return cpuModel(string(text))
}

const unknownCPU = "unknown CPU"

// cpuModel is the first processor's name in /proc/cpuinfo.
func cpuModel(text string) string {
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), ":")
		if strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return unknownCPU
}
