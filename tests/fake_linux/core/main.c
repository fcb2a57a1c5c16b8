#include <module.h>
int core_answer(void);
int core_answer(void)
{
	return 42;
}
EXPORT_SYMBOL(core_answer);
