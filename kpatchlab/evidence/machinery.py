"""Functions that say nothing about a fault: the same ones stand on top of the stacks of all faults of a kind.

Who called them is to blame. A family is a pattern over a function's name without its leading underscores, without what
the compiler appends (`.isra.0`) and without `_noprof`, which Linux 6.10 appends to allocators.
"""

from __future__ import annotations

import functools
import re

DUMPING = (
    r"dump_stack\w*|dump_backtrace\w*|show_(?:stack|regs|trace)\w*|walk_stackframe|unwind_\w*frame\w*|arch_stack_walk\w*"
    r"|(?:save_)?stack_trace\w*|save_stack\w*|(?:kernel|core_kernel)_text_address|is_bpf_text_address|bpf_ksym_find"
    r"|panic\w*|vpanic|nmi_panic\w*|check_panic_on_warn|bust_spinlocks"
)
"""What prints a stack, and what ends the kernel: never a name for a report."""

_MACHINERY = re.compile(
    DUMPING
    + r"""|
    # dying: traps of x86, arm, arm64, RISC-V, s390, PowerPC
    warn|warn_\w+|report_bug\w*|handle_bug|fixup_bug|is_valid_bugaddr|find_bug|die\w*|oops_\w+|do_error_trap
    | do_trap\w*|(?:do_)?invalid_op\w*|no_context|page_fault_oops|bad_area\w*
    | do_(?:user|kern|sect|translation|kernel|page|sp_pc|bad)\w*_(?:fault|abort|addr_fault)|do_page_fault\w*
    | do_mem_abort|do_sea|do_tag_\w+|(?:handle_)?bad_stack|handle_stack_overflow|(?:async_|handle_)?page_fault
    | (?:do_)?general_protection|kernelmode_fixup_or_oops|asm_\w+|exc_\w+|sysvec_\w+|(?:do_)?double_fault
    | do_divide_error|divide_error|do_int3|int3\w*|common_interrupt\w*|(?:smp_)?apic_timer_interrupt
    | reschedule_interrupt|call_function_\w*interrupt|error_entry|ret_from_\w+|retint_\w+|interrupt(?:_entry)?
    | entry_SYS\w+|do_syscall_\w+|x64_sys_call|do_fast_syscall\w*|do_int80\w*|int80_\w+|end_repeat_nmi
    | unknown_nmi_error|(?:default_)?do_nmi|nmi_\w+|irqentry_\w+|irq_exit\w*|el[01]\w+|invoke_syscall
    | do_el0_svc|vectors|bug_handler|brk_handler|call_\w*break_hook|do_el[01]_\w+|do_report_trap
    | do_debug_exception|do_ptrauth_fault|do_trap_\w+|handle_exception|handle_syscall|do_irq|report_bad_irq
    | note_interrupt|handle_(?:\w+_)?irq\w*|generic_handle_\w+|dabt_\w+|und_\w+|do_DataAbort|do_undefinstr
    | call_fpe|pgm_check\w*|do_pgm_check|do_dat_exception|do_protection_exception|monitor_event_exception
    | system_call|do_syscall|program_check_\w+|data_access_\w+|do_hash_fault|user_exc_\w+|rust_begin_unwind
    | rust_helper_BUG|core_panicking\w*|RN\w*(?:rust_begin_unwind|core9panicking)\w*|\w*brk_handler|handle_break
    | stack_depot_\w+|\w*serror\w*|cant_(?:sleep|migrate)
    # checks that end in BUG() or WARN() for their caller
    | fortify_\w+|usercopy_\w+|check_heap_object|check_object_size|check_stack_object
    | skb_(?:over_|under_)?panic|skb_(?:put|push|pull)\w*|assertfail|ass?fail|asswarn|stack_chk_fail
    | phys_addr\w*|virt_addr_valid|dump_page|bad_page|free_page_is_bad\w*
    | check_new_page\w*|bad_range|list_\w*valid\w*|\w*sysfs_remove\w*|sysfs_\w+
    | internal_create_group\w*|kobject_\w+|kset_\w+|kobj_\w+|add_uevent_var
    | proc_(?:register|create\w*|mkdir\w*)|remove_proc_\w+|bpf_warn_\w+|reiserfs_(?:panic|error)
    | debug_dma_\w+|check_(?:unmap|sync)|add_dma_entry|dma_(?:un)?map_\w+_attrs|check_flush_dependency
    | setup_irq|request_\w*irq\w*|free_irq|timer_shutdown\w*
    | ext4_error\w*|xfs_\w*error_report|xfs_\w*corruption_error
    | device_(?:add|del|register|unregister|create)\w*
    | device_(?:destroy|release|initialize|for_each_child|remove_file|create_file)\w*|device_(?:links?|pm)_\w+
    | devres_\w+|devm_\w+|get_device\w*|put_device|bus_(?:add|remove|probe)_device|klist_\w+
    | rollback_registered\w*|unregister_netdev\w*|i2c_del_adapter|unregister_client|hwrng_unregister
    | tty_unregister_device|usb_(?:submit|kill|poison|unlink)_\w*urbs?|usb_hcd_\w+
    | usb_(?:control|bulk|interrupt)_msg|usb_start_wait_urb|usb_internal_control_msg|dummy_urb_enqueue
    # checkers and coverage
    | kasan\w*|k?asan_\w+|hwasan_\w+|tsan_\w+|kcsan_\w+|ubsan_\w+|kfence\w*|k?msan_\w+|handle_overflow
    | check_memory_region\w*|check_region_inline|print_address_\w+|print_(?:report|memory_metadata)|end_report
    | start_report|report_(?:bug|enabled)|sanitizer_\w+|write_comp_data|check_kcov_mode|canonicalize_ip
    | in_task\w*|kcov_\w+|read_word_at_a_time|instrument_\w+|(?:read|write)_once_\w*nocheck|debug_object\w*
    | debug_print_object|debug_check_no_obj_freed|(?:timer|work|hrtimer)_is_static_object|object_err|slab_err
    | slab_bug|slab_fix|check_object|check_bytes\w*|check_slab|print_trailer
    # lockdep
    | lock_(?:acquire|release|is_held|set|class|init|pin|unpin|contended|acquired|rcu|hardirqs|softirqs|sys_exit)\w*
    | lockdep_\w+|lock_release_\w+|lock_acquire\w*|(?:re)?acquire_held_locks|mark_(?:lock|held_lock|usage)\w*
    | find_held_lock|match_held_lock|look_up_lock_class|register_lock_class|assign_lock_key
    | lookup_chain_cache\w*|add_chain_cache\w*|hlock_\w+|valid_state
    | check_(?:prev|prevs|usage|irq_usage|noncircular|deadlock|no_collision|wait_context|path|redundant)\w*
    | validate_chain|print_\w*(?:bug|usage|deadlock|circular\w*|collision|context|inversion|held)\w*
    | debug_check_no_locks\w*|debug_lockdep\w*|trace_(?:hard|soft)irqs\w*|held_lock\w*|graph_lock
    | debug_show_\w+|print_lock\w*
    # the allocators, and who frees
    | k[mzc]alloc\w*|kv[mzc]?alloc\w*|v[mz]?alloc\w*|kv?realloc\w*|kmem_cache_\w+|k?v?kmalloc_\w+|do_kmalloc\w*
    | kmalloc\w*|k?v?z?free|kfree_(?:sensitive|const|rcu\w*|skb\w*|link)|kvfree_\w+|vfree\w*|vunmap\w*
    | free_large_kmalloc|memdup\w*|k?strn?dup\w*|kmemdup\w*|v?memdup_user\w*|slab_\w+|new_slab|allocate_slab
    | free_slab|unfreeze_partials|put_cpu_partial|cache_(?:alloc|free|grow)\w*|qlist_\w+|quarantine_\w+
    | (?:get_)?free_pages?\w*|alloc_pages?\w*|alloc_frozen_pages\w*|get_page_from_freelist
    | folio_(?:alloc|unlock|lock)\w*|vma_alloc_\w+|alloc_from_pcs|refill_\w+|prep_(?:new|compound)_page\w*
    | post_alloc_hook|kernel_(?:un)?(?:poison|map)_pages|check_poison_mem
    | free_(?:unref|pcp|frozen|pcppages|hot_cold)\w*|free_pages_\w+|put_page\w*|page_frag_\w+|pcpu_\w+
    | alloc_percpu\w*|free_percpu|kmemleak\w*|(?:create|delete)_object\w*|sock_k[mz]*alloc|\w+_debug_processing
    | on_freelist|release_slab_\w+|check_(?:slab|page)_allocation|poison_slab_object|free_(?:to_)?partial\w*
    | (?:free|alloc)_consistency_checks|free_one_page|free_tail_page\w*|free_page_is_bad\w*|page_bad_reason
    | (?:find|remove)_vm_area|link_object|(?:find_and_get|find_and_remove|lookup)_object\w*|paint_ptr
    # strings and memory
    | (?:pi_)?mem(?:cpy|set|move|cmp|chr|scan|zero)\w*
    | (?:pi_)?str(?:n?len|n?cpy|n?cmp|n?cat|r?chr|n?str|scpy|lcpy|lcat|nchr|spn|sep|im|case)\w*
    | v?s[nc]{0,2}printf|vsnprintf|bstr_printf|string\w{0,8}|pointer\w{0,7}|hex_string|format_decode|number
    | ip\w?_addr_string|kv?asprintf\w*|hex_dump_to_buffer|print_hex_dump\w*
    | (?:arch_)?copy_(?:to|from|in)_(?:user|iter|kernel)\w*|copy_(?:page|folio)_(?:to|from)_iter\w*
    | simple_copy_to_iter|copyin|copyout|rep_movs\w*|rep_stos\w*
    | copy_page|clear_(?:page|user|huge_page)\w*(?:_rep|_erms|_orig)|copy_user\w*|copy_overflow|sized_strscpy
    | raw_copy_\w+|(?:get|put)_user(?:_\w*\d)?|strn(?:cpy_from|len)_user\w*|fault_in_\w+|crc\d\w*|crc_\w+
    | csum_\w*copy\w*|bitmap_\w+|find_(?:next|first|last)_\w*bit\w*
    # printing
    | v?printk\w*|\w+_printk\w*|printk_\w+|vprintk_\w+
    | console_(?:unlock|trylock|lock|flush|emit|conditional|cpu)\w*|va_format
    | dev_(?:info|notice|warn|err|alert|crit|emerg|vprintk)\w*|netdev_(?:info|warn|err)|serial8250_\w+
    | univ8250_\w+|wait_for_\w*xmitr|call_console_drivers|down_trylock_console_sem|down_console_sem
    | up_console_sem
    # counters, bits, lists, trees
    | (?:arch_|raw_)?atomic(?:64|_long)?_\w+|(?:arch_)?(?:test_and_)?(?:set|clear|change|test)_bit\w*
    | refcount_\w+|kref_\w+|ref_tracker_\w+|h?list_(?:add|del|replace|move|splice|empty|bl|nulls)\w*|llist_\w+
    | rb_\w+|rb_(?:erase|insert|first|next|prev)\w*|xas?_\w+|id[ar]_\w+|rhashtable_\w+|rht_\w+|percpu_ref_\w+
    | percpu_counter_\w+|seqprop_\w+|read_seq\w+|extract_(?:user|iter|kvec|bvec)_to_sg
    # locks
    | (?:(?:do|native|queued|paravirt|pv|raw|rt|arch)_)*(?:spin|read|write|rwlock|rw|mutex)_(?:try|un|rq_)*lock\w*
    | spin_(?:dump|bug|lockup\w*)|rwlock_bug|raw_spin_rq_\w+|(?:ww_|rt_)?mutex_\w+|rtlock_\w+
    | rt_(?:mutex|spin|read|write)\w*_\w*lock\w*|rwsem_\w+|rwbase_\w+|ldsem_\w+
    | down(?:_(?:read|write|trylock|interruptible|killable|timeout)\w*)?|down_common|up(?:_(?:read|write)\w*)?
    | call_rwsem_\w+|percpu_(?:down|up|rwsem)\w*|osq_\w+|mcs_\w+|owner_on_cpu|queued_\w+_slowpath
    | native_queued_\w+|kvm_wait|pv_(?:queued|wait|native|hash|kick)\w*|lock_sock\w*|release_sock|lock_page\w*
    | unlock_page\w*|local_bh_\w+|bh_(?:enable|disable)\w*|lock_timer_base|lock_hrtimer_base
    # scheduling and waiting
    | (?:io_)?schedule\w*|context_switch|switch_to\w*|preempt_\w*schedule\w*|preempt_count_\w+
    | preempt_(?:enable|disable)\w*|cond_resched\w*|schedule_bug|might_(?:sleep|resched|fault)\w*
    | check_preemption_disabled|debug_smp_processor_id|this_cpu_preempt_check|wait_for_com\w+
    | do_wait_for_common|prepare_to_\w*wait\w*|finish_wait|wait_woken|woken_wake_\w+|bit_wait\w*|wait_on_bit\w*
    | out_of_line_wait_on_bit\w*|wait_on_(?:page|buffer)\w*|folio_wait_\w+|wake_up\w*|autoremove_wake_\w+
    | default_wake_\w+|try_to_wake_up|swake_up\w*|complete(?:_all\w*)?|rcu_sync_\w+|call_rcu\w*|wait_rcu_gp\w*
    | synchronize_(?:rcu_expedited|sched_expedited|srcu)\w*|synchronize_rcu_normal|exp_funnel_lock
    | flush_(?:work|workqueue|delayed_work)\w*|start_flush_work|drain_workqueue|destroy_workqueue
    | cancel_(?:delayed_)?work\w*|try_to_grab_pending|queue_(?:delayed_)?work\w*|insert_work
    | mod_delayed_work\w*|kthread_(?:stop|flush|park|unpark)\w*|(?:usleep_range|msleep|ssleep|fsleep)\w*
    | delay_\w+|[unm]?delay|const_udelay|native_\w*(?:halt|pause)|pv_native_safe_halt|del_timer\w*
    | timer_delete\w*|(?:mod|add)_timer\w*|try_to_del_timer\w*|sk_(?:stop|reset)_timer\w*|hrtimer_\w+
    | csd_lock_\w+|csd_do_func|smp_call_function\w+|on_each_cpu\w*|generic_exec_single|text_poke\w*
    | smp_text_poke\w*|wait_for_completion\w*|(?:static_key|jump_label|arch_jump_label)_\w+|cleanup_srcu_struct
    # the detectors of stalls, on top of the stack that they complain of
    | \w*trigger_\w*backtrace\w*
    | rcu_\w*(?:stall|stalls|kthread|starvation|dump|detail|pending|check|sched_clock|dynticks)\w*|rcu_gp_\w+
    | rcu_(?:is_watching|core\w*|note_\w+|print_\w+|sched_clock_irq)
    | rcu_(?:process_callbacks|do_batch|read_\w*lock\w*|lockdep\w*|preempt_\w+)|print_(?:other_)?cpu_stall\w*
    | check_cpu_stall|sched_show_task|dump_cpu_(?:task|stacks)|tick_\w+|update_process_times|run_local_timers
    | watchdog_(?:timer|overflow|hardlockup|check|buddy|nmi)\w*|softlockup_\w+
    | perf_event_\w*(?:overflow|nmi|account\w*)\w*|perf_\w*nmi\w*|\w+_pmu_\w+|handle_pmi_common
    | local_apic_timer_\w+|check_hung_\w+|lapic_\w+|bp_vsyscall|srcu_read_\w*lock\w*
    # tracing, thunks, return paths
    | perf_trace_\w+|trace_event_\w+|trace_\w+_enabled|ftrace_\w+|x86_(?:indirect|return)_\w+
    | indirect_\w*thunk\w*|srso_\w+|\w+_return_thunk|\w*untrain_ret\w*|clear_bhb_\w+|fentry|retbleed_\w+
    | preempt_schedule_\w+|static_call_\w+|traceiter_\w+|bpf_dispatcher_\w+
    # the page cache, inodes and dentries, for whoever got the last reference or the lock
    | filemap_\w*get_folio|filemap_alloc_folio|pagecache_get_page|find_or_create_page|find_get_(?:page|entr)\w*
    | find_lock_entr\w+|grab_cache_page\w*|do_read_cache_\w+|read_cache_page\w*|truncate_inode_pages_range
    | mark_buffer_dirty|iput|iput_final|ihold|drop_nlink|dput|fast_dput|get_taint
    # plain reads and writes of devices
    | (?:raw_)?(?:read|write)[bwlq]|io(?:read|write)\d+\w*|logic_(?:in|out)\w+|print_tainted
    """,
    re.VERBOSE,
)
"""All but DUMPING can name a report whose stack has nothing else."""

_NORMAL = re.compile(r"_*(.*?)(?:_noprof)?(?:\.\w.*)?", re.DOTALL)
_DUMPING = re.compile(DUMPING)


@functools.lru_cache(maxsize=8192)
def is_machinery(function: str) -> bool:
    """Whether a function's name says nothing about the fault."""
    return bool(_MACHINERY.fullmatch(_plain(function)))


@functools.lru_cache(maxsize=1024)
def only_prints(function: str) -> bool:
    """Whether a function is there for the report alone: it prints the stack, or ends the kernel."""
    return bool(_DUMPING.fullmatch(_plain(function)))


def _plain(function: str) -> str:
    match = _NORMAL.fullmatch(function)
    return match[1] if match else function
