package vmtest

import "os"

// GuestEnv names the environment variable that is set, to the kernel that was
// asked for, in every guest of cmd/vmexec.
const GuestEnv = "UBLK_REMAP_GUEST"

// InGuest says whether this process runs in a guest of cmd/vmexec.
func InGuest() bool { return os.Getenv(GuestEnv) != "" }
