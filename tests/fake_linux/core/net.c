#include <module.h>
int core_send(int flags);
int core_send(int flags)
{
	if (flags)
		return -1;
	return 0;
}
EXPORT_SYMBOL(core_send);
